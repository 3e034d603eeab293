"""CSV files: one row per call, and steps averaged over equal intervals."""

import csv
import io
from collections.abc import Iterable, Sequence
from math import isnan

from ..recording.recorder import NEVER
from ..recording.timeline import timeline
from ..study.study import Study
from ..study.views import by_session
from ..timebase import NS_PER_MS, NS_PER_S

STEP_ROWS = 2000
"""Rows of steps.csv at most, over all replicas."""


def requests_csv(study: Study) -> str:
    """One row per call. Times in milliseconds of simulated time; empty where something did not happen."""
    recording, times = study.recording, study.times
    header = [
        "call",
        "session",
        "session_name",
        "turn",
        "replica",
        "status",
        "arrival_ms",
        "admitted_ms",
        "first_token_ms",
        "finish_ms",
        "prompt_tokens",
        "hit_tokens",
        "host_hit_tokens",
        "output_tokens",
        "ttft_ms",
        "tpot_ms",
        "tokens_per_s",
        "queue_ms",
        "e2e_ms",
        "retractions",
        "restarts",
        "reject_reason",
    ]

    def rows() -> Iterable[Sequence[object]]:
        for call in study.workload.calls:
            index = call.index
            moments = (recording.arrival_ns, recording.admitted_ns, recording.first_token_ns, recording.finish_ns)
            yield (
                index,
                call.session,
                study.workload.sessions[call.session].name,
                call.turn,
                "" if recording.replica[index] == NEVER else recording.replica[index],
                "rejected" if index in recording.rejected else "finished",
                *(_milliseconds(int(moment[index])) for moment in moments),
                call.prompt_tokens,
                recording.hit_tokens[index],
                recording.host_hit_tokens[index],
                recording.output_tokens[index],
                _decimal(times.ttft_ms[index]),
                _decimal(times.tpot_ms[index]),
                _decimal(times.tokens_per_s[index]),
                _decimal(times.queue_ms[index]),
                _decimal(times.e2e_ms[index]),
                recording.retractions[index],
                recording.restarts[index],
                recording.rejected.get(index, ""),
            )

    return _csv(header, rows())


def steps_csv(study: Study) -> str:
    """Steps averaged over equal intervals of the simulation, so that the file stays small whatever the run's length."""
    intervals = max(STEP_ROWS // study.replicas, 1)
    line = timeline(study.recording, study.replicas, intervals)
    columns = {
        "steps": line.steps,
        "device_busy": line.busy,
        "running": line.running,
        "waiting": line.waiting,
        "kv_held": line.held,
        "kv_cached": line.cached,
        "output_tokens_per_s": line.output_per_s,
        "prefill_tokens_per_s": line.prefill_per_s,
    }
    edges = [f"{edge / NS_PER_S:.6f}" for edge in line.edges_ns.tolist()]
    rows = (
        (replica, edges[n], edges[n + 1], *(f"{column[replica, n]:.5g}" for column in columns.values()))
        for replica in range(study.replicas)
        for n in range(intervals)
    )
    return _csv(["replica", "from_s", "to_s", *columns], rows)


def sessions_csv(study: Study) -> str:
    """One row per session, see `by_session`."""
    rows = by_session(study)
    return _csv(list(rows[0]), ([_shown(value) for value in row.values()] for row in rows))


def _shown(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _milliseconds(ns: int) -> str:
    return "" if ns == NEVER else f"{ns // NS_PER_MS}.{ns % NS_PER_MS:06d}"


def _decimal(value: float) -> str:
    return "" if isnan(value) else f"{value:.4f}"
