"""A study seen by replica and by session: rows of plain values for tables."""

from typing import Any

import numpy as np

from ..recording.recorder import NEVER
from ..timebase import NS_PER_S
from .metrics import Percentiles
from .study import Study


def by_replica(study: Study) -> list[dict[str, Any]]:
    """One row for each replica. Times in milliseconds, shares of 1; None where nothing is known."""
    recording, times = study.recording, study.times
    runs, prompt = recording.step_runs.runs, _prompts(study)
    sessions = np.array([call.session for call in study.workload.calls])
    duration_ns = study.metrics.duration_s * NS_PER_S
    rows = []
    for replica in range(study.replicas):
        mine = recording.replica == replica
        done, steps = mine & (recording.finish_ns != NEVER), runs["replica"] == replica
        ttft = Percentiles.of(times.ttft_ms[mine])
        rows.append(
            {
                "replica": replica,
                "sessions": len(np.unique(sessions[mine])),
                "calls": int(mine.sum()),
                "finished": int(done.sum()),
                "ttft_p50_ms": _known(ttft.p50),
                "ttft_p90_ms": _known(ttft.p90),
                "tpot_p50_ms": _known(Percentiles.of(times.tpot_ms[mine]).p50),
                "hit_share": _share(int(recording.hit_tokens[done].sum()), int(prompt[done].sum())),
                "output_tokens": int(recording.output_tokens[done].sum()),
                "retractions": int(recording.retractions[mine].sum()),
                "steps": int(runs["steps"][steps].sum()),
                "busy_share": _share(int(runs["busy_ns"][steps].sum()), duration_ns),
            }
        )
    return rows


def by_session(study: Study) -> list[dict[str, Any]]:
    """One row for each session, in their order. Times in milliseconds, but seconds from the start of the study."""
    recording, times, prompt = study.recording, study.times, _prompts(study)
    rows = []
    for number, session in enumerate(study.workload.sessions):
        calls = slice(session.calls.start, session.calls.stop)
        done = recording.finish_ns[calls] != NEVER
        start = int(recording.arrival_ns[calls].min())
        end = int(np.maximum(recording.finish_ns[calls], recording.arrival_ns[calls]).max())
        ttft = Percentiles.of(times.ttft_ms[calls])
        rows.append(
            {
                "session": number,
                "name": session.name,
                "replicas": " ".join(str(r) for r in np.unique(recording.replica[calls]).tolist() if r != NEVER),
                "calls": len(session.calls),
                "finished": int(done.sum()),
                "start_s": start / NS_PER_S,
                "duration_s": (end - start) / NS_PER_S,
                "prompt_tokens": int(prompt[calls].sum()),
                "hit_share": _share(int(recording.hit_tokens[calls][done].sum()), int(prompt[calls][done].sum())),
                "output_tokens": int(recording.output_tokens[calls].sum()),
                "ttft_p50_ms": _known(ttft.p50),
                "ttft_p90_ms": _known(ttft.p90),
                "tpot_p50_ms": _known(Percentiles.of(times.tpot_ms[calls]).p50),
                "retractions": int(recording.retractions[calls].sum()),
                "restarts": int(recording.restarts[calls].sum()),
            }
        )
    return rows


def _prompts(study: Study) -> Any:
    return np.array([call.prompt_tokens for call in study.workload.calls], dtype=np.int64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
