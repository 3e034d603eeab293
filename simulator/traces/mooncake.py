"""Mooncake traces (Qin et al., FAST 2025) and their form with sessions: JSON lines with lengths and prefix ids.

Fields: timestamp (ms), input_length, output_length (tokens), hash_ids (one chain id for each block of 512 prompt
tokens; the last block may be partial; missing: the prompt is never shared). With session_id, rows of one id are the
turns of one conversation in their order in the file: a turn is sent `delay` ms after the answer to the one before, and
not before its timestamp. If no row has a timestamp, sessions start as places come free.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError
from ..timebase import NS_PER_MS, NS_PER_S
from ..workload.chain_ids import ChainIds
from ..workload.options import TimeUnit, WorkloadOptions
from ..workload.page_hashes import extended, split_ratio
from ..workload.workload import (
    Call,
    Dependency,
    Session,
    Trigger,
    Workload,
    closed_loop_in_words,
    closed_loop_sessions,
)
from .arrivals import arrival_ns
from .fields import block_ids, integer, number, optional_text, parse_json_object
from .notices import Notices

TRACE_BLOCK_SIZE: Final = 512
"""Prompt tokens that one id of the trace stands for, unless the study says otherwise."""

FIELDS: Final = frozenset({"timestamp", "input_length", "output_length", "hash_ids", "session_id", "delay"})

DEFAULT_CONCURRENCY: Final = 4
"""Sessions alive at once if no row says when it arrives and the study does not either."""

STAGGER_NS: Final = NS_PER_S
"""Time between the starts of the first of these."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row, checked."""

    where: str
    session: str | None
    timestamp: int | float | None
    delay_ms: int | float | None
    prompt: int
    output: int
    ids: NDArray[np.int64]
    arrival_ns: int = 0


def read_mooncake(lines: Iterable[bytes], name: str, options: WorkloadOptions) -> Workload:
    """The workload in `lines`: one session for each session_id, and for each row without."""
    block = options.trace_block_size or TRACE_BLOCK_SIZE
    ratio = split_ratio(block, options.block_size)
    chains, notices = ChainIds(options.block_ids), Notices(options.skip_bad)
    rows: list[_Row] = []
    for line_number, line in enumerate(lines, 1):
        if line.strip():
            with notices.record():
                rows.append(_row(line, f"{name}, line {line_number}", block, chains, notices))
    timed = [row for row in rows if row.timestamp is not None]
    arrivals, words = arrival_ns([row.timestamp or 0 for row in timed], options.time_unit, name, "timestamp")
    if timed:
        times = dict(zip((row.where for row in timed), arrivals, strict=True))
        rows = [replace(row, arrival_ns=times.get(row.where, 0)) for row in rows]
    groups: dict[str, list[_Row]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(f"request {position}" if row.session is None else row.session, []).append(row)
    chosen = list(groups.items())
    if timed:
        for group in groups.values():
            _check_times(group)
        chosen.sort(key=lambda group: group[1][0].arrival_ns)  # stable: rows of one time keep their order
    chosen = list(islice(chosen, options.limit))
    calls: list[Call] = []
    ranges: list[tuple[str, range]] = []
    for session_name, group in chosen:
        first = len(calls)
        hashes = extended([(row.ids, row.prompt, row.output) for row in group], block, options.block_size, 0)
        for turn, (row, pages) in enumerate(zip(group, hashes, strict=True)):
            after = _after(row, group[0], first, turn, options) if turn else ()
            calls.append(Call(first + turn, len(ranges), turn, row.prompt, row.output, pages, after))
        ranges.append((session_name, range(first, len(calls))))
    turns = sum(len(group) for _, group in chosen) > len(chosen)
    open_loop = "open loop at the recorded times" if timed else "closed loop"
    assumptions = {
        "Workload": f"Mooncake trace, {len(calls):,} requests in {len(ranges):,} sessions, {open_loop}",
        "Prefix identities": f"global, each id of {block} tokens split into {ratio} blocks; full blocks of the prompt"
        + (
            ", and where the next turn extends a call, the blocks that the call's output fills"
            if turns
            else " only (the trace does not say which output a later prompt repeats)"
        ),
        "Recorded times": words,
    }
    concurrency = options.concurrency
    if timed:
        sessions = [
            Session(label, group[0].arrival_ns, indices)
            for (label, group), (_, indices) in zip(chosen, ranges, strict=True)
        ]
    else:
        concurrency = min(options.concurrency or DEFAULT_CONCURRENCY, max(len(ranges), 1))
        sessions = closed_loop_sessions(ranges, concurrency, STAGGER_NS)
        assumptions["Sessions alive at once"] = closed_loop_in_words(concurrency, STAGGER_NS)
    if turns:
        cap = options.think_cap_ns / NS_PER_S
        assumptions["Turns"] = (
            f"a turn waits for the answer before it and its delay (capped at {cap:g} s), and is not sent before its "
            "timestamp, counted from the session's start"
        )
    return Workload(
        name,
        options.block_size,
        sessions,
        calls,
        concurrency,
        assumptions,
        warnings=notices.warnings("lines"),
        chains_checked=True,
    )


def _row(line: bytes, where: str, block: int, chains: ChainIds, notices: Notices) -> _Row:
    record = parse_json_object(line, where)
    prompt = integer(record, "input_length", where, least=1)
    output = integer(record, "output_length", where)
    ids = block_ids(record, "hash_ids", where) if "hash_ids" in record else np.empty(0, dtype=np.int64)
    if len(ids) > -(-prompt // block):
        raise WorkloadError(
            f"{where}: field 'hash_ids' has {len(ids)} ids, too many for input_length {prompt} in blocks of {block} "
            "(for other blocks give --trace-block-size)"
        )
    session = optional_text(record, "session_id", where)
    timestamp = None if record.get("timestamp") is None and session is not None else number(record, "timestamp", where)
    row = _Row(
        where,
        session,
        timestamp,
        None if record.get("delay") is None else number(record, "delay", where, most=1e12),
        prompt,
        max(output, 1),
        chains.accept(ids, where),
    )
    notices.unused(record, FIELDS if session is not None else FIELDS - {"delay"})
    return row


def _check_times(group: list[_Row]) -> None:
    """A session's first row says when it starts; no later one claims to be earlier."""
    first = group[0]
    if first.timestamp is None:
        raise WorkloadError(
            f"{first.where}: field 'timestamp' is missing; the first row of a session needs one if other rows have any"
        )
    for row in group[1:]:
        if row.timestamp is not None and row.arrival_ns < first.arrival_ns:
            raise WorkloadError(
                f"{row.where}: field 'timestamp' is {row.timestamp}, before that of the session's first row; sort the "
                "rows of each session by time"
            )


def _after(row: _Row, first: _Row, first_call: int, turn: int, options: WorkloadOptions) -> tuple[Dependency, ...]:
    unit = NS_PER_S if options.time_unit is TimeUnit.SECONDS else NS_PER_MS
    delay = min(round((row.delay_ms or 0) * unit), options.think_cap_ns)
    after = Dependency(first_call + turn - 1, delay)
    if row.timestamp is None:
        return (after,)
    return after, Dependency(first_call, row.arrival_ns - first.arrival_ns, Trigger.DISPATCH)


def is_mooncake(record: dict[str, Any]) -> bool:
    """Whether the object on a first line is a request of such a trace."""
    return "input_length" in record
