"""A timeline in the Chrome trace-event format, which ui.perfetto.dev and chrome://tracing open.

Counters cover the whole run. Steps are shown in a window around the busiest moment; calls as far as there are few.
"""

import gzip
import heapq
import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..recording.recorder import NEVER
from ..recording.timeline import timeline
from ..study.study import Study
from ..timebase import NS_PER_US

MOST_STEPS: Final = 8000
MOST_CALLS: Final = 3000
COUNTER_POINTS: Final = 500
CALLS_PROCESS: Final = 1000
"""Process number of the tracks with requests; replicas have their own numbers, from 1."""


def perfetto_trace(study: Study) -> bytes:
    """The trace, gzip-compressed JSON of bounded size."""
    steps = _windowed_steps(study)
    events = [*_names(study), *_counters(study), *_steps(steps), *_calls(study, steps)]
    text = json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def _step_windows(study: Study) -> list[tuple[int, int]]:
    """For each replica the runs, as positions in the table of runs, around the time with the most calls."""
    runs = study.recording.step_runs.runs
    if len(runs["rows"]) == 0:
        return []
    busiest = runs["start_ns"][int(np.argmax(runs["running"] + runs["waiting"]))]
    most = max(MOST_STEPS // study.replicas, 1)
    windows = []
    for replica in range(study.replicas):
        first, last = np.searchsorted(runs["replica"], [replica, replica + 1]).tolist()
        if first == last:
            continue
        reached = np.cumsum(runs["steps"][first:last])
        middle = int(np.searchsorted(runs["start_ns"][first:last], busiest))
        count = int(reached[-1])
        begin = max(min(int(reached[min(middle, last - first - 1)]) - most // 2, count - most), 0)
        windows.append((first + int(np.searchsorted(reached, begin, side="right")), last))
    return windows


def _microseconds(ns: int) -> float:
    return ns / NS_PER_US


def _names(study: Study) -> list[dict[str, Any]]:
    names = [_name("process_name", replica + 1, 0, f"Replica {replica}") for replica in range(study.replicas)]
    names += [_name("thread_name", replica + 1, 1, "Device: steps") for replica in range(study.replicas)]
    return [*names, _name("process_name", CALLS_PROCESS, 0, "Calls")]


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _counters(study: Study) -> list[dict[str, Any]]:
    line = timeline(study.recording, study.replicas, max(COUNTER_POINTS // study.replicas, 2))
    series = (
        ("Calls", {"running": line.running, "waiting": line.waiting}, 1),
        ("KV blocks (%)", {"held": line.held, "cached": line.cached}, 100),
        ("Tokens per second", {"output": line.output_per_s, "prefill": line.prefill_per_s}, 1),
    )
    return [
        {
            "ph": "C",
            "name": name,
            "pid": replica + 1,
            "ts": _microseconds(int(line.edges_ns[n])),
            "args": {key: round(float(values[replica, n]) * factor, 2) for key, values in levels.items()},
        }
        for replica in range(study.replicas)
        for name, levels, factor in series
        for n in range(len(line.edges_ns) - 1)
    ]


def _windowed_steps(study: Study) -> dict[str, NDArray[np.int64]]:
    """The steps that are shown, by replica and in time: at most MOST_STEPS over all replicas."""
    most = max(MOST_STEPS // study.replicas, 1)
    shown = []
    for first, last in _step_windows(study):
        enough = first + int(np.searchsorted(np.cumsum(study.recording.step_runs.runs["steps"][first:last]), most)) + 1
        table = study.recording.step_runs.table(first, min(enough, last))
        shown.append({name: column[:most] for name, column in table.items()})
    if not shown:
        return study.recording.step_runs.table(0, 0)
    return {name: np.concatenate([table[name] for table in shown]) for name in shown[0]}


def _steps(steps: dict[str, NDArray[np.int64]]) -> list[dict[str, Any]]:
    columns = {name: values.tolist() for name, values in steps.items()}
    events = []
    for row in zip(*columns.values(), strict=True):
        step = dict(zip(columns, row, strict=True))
        prefill = step["tokens"] - step["decode_rows"]
        parts = [f"prefill {prefill}"] if prefill else []
        parts += [f"decode {step['decode_rows']}"] if step["decode_rows"] else []
        events.append(
            {
                "ph": "X",
                "name": " + ".join(parts),
                "cat": "prefill" if prefill else "decode",
                "pid": step["replica"] + 1,
                "tid": 1,
                "ts": _microseconds(step["start_ns"]),
                "dur": _microseconds(step["end_ns"] - step["start_ns"]),
                "args": {key: step[key] for key in ("rows", "tokens", "context_tokens", "held_blocks", "waiting")},
            }
        )
    return events


def _calls(study: Study, steps: dict[str, NDArray[np.int64]]) -> list[dict[str, Any]]:
    """The phases of calls: of all if there are few, else of those that overlap the window of steps."""
    recording = study.recording
    finished = np.flatnonzero(recording.finish_ns != NEVER)
    if len(finished) > MOST_CALLS and len(steps["start_ns"]):
        from_ns, to_ns = steps["start_ns"].min(), steps["end_ns"].max()
        inside = (recording.arrival_ns[finished] < to_ns) & (recording.finish_ns[finished] > from_ns)
        finished = finished[inside]
    order = finished[np.argsort(recording.arrival_ns[finished], kind="stable")][:MOST_CALLS]
    events: list[dict[str, Any]] = []
    lanes = _Lanes()
    for index in order.tolist():
        call = study.workload.calls[index]
        moments = [
            int(column[index])
            for column in (recording.arrival_ns, recording.admitted_ns, recording.first_token_ns, recording.finish_ns)
        ]
        group = study.workload.sessions[call.session].name if study.workload.has_turns else "requests"
        lane, new = lanes.take(group, moments[0], moments[3])
        if new:
            events.append(_name("thread_name", CALLS_PROCESS, lane, group))
        base = {"pid": CALLS_PROCESS, "tid": lane, "ph": "X"}
        args = {
            "call": index,
            "turn": call.turn,
            "prompt_tokens": call.prompt_tokens,
            "hit_tokens": int(recording.hit_tokens[index]),
            "output_tokens": int(recording.output_tokens[index]),
            "replica": int(recording.replica[index]),
        }
        for name, begin, finish in zip(("queue", "prefill", "decode"), moments, moments[1:], strict=False):
            if finish > begin:
                ts, dur = _microseconds(begin), _microseconds(finish - begin)
                events.append({**base, "name": name, "cat": name, "ts": ts, "dur": dur, "args": args})
    return events


class _Lanes:
    """Gives each call a track on which no other call of its group runs at the same time."""

    def __init__(self) -> None:
        self._free: dict[str, list[tuple[int, int]]] = {}
        self._count = 0

    def take(self, group: str, start: int, end: int) -> tuple[int, bool]:
        """(track number, whether it is new) for a call; calls come in order of their start."""
        free = self._free.setdefault(group, [])
        if free and free[0][0] <= start:
            lane = free[0][1]
            heapq.heapreplace(free, (end, lane))
            return lane, False
        self._count += 1
        heapq.heappush(free, (end, self._count))
        return self._count, True
