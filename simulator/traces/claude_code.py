"""Recorded Claude Code sessions (kv-cache-tester traces, Apache-2.0): closed loop, one JSON object per session.

Session fields: id, block_size, hash_id_scope (local: ids mean something inside the session only; global), requests.
Request fields: t (s since the session's or sub-agent's start), in, out (tokens), hash_ids (one chain id for each full
block of the prompt), think_time and api_time (s, may be missing). A request of type "subagent" has t, requests of its
own and, unless it never ended, duration_ms: a later request of its parent that starts after its end waits for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError
from ..timebase import NS_PER_S, seconds_to_ns
from ..workload.options import WorkloadOptions
from ..workload.page_hashes import expand, split_ratio
from ..workload.workload import Call, Dependency, Trigger, Workload, closed_loop_in_words, closed_loop_sessions
from .fields import block_ids, integer, items, optional_seconds, parse_json_object, seconds, text

DEFAULT_CONCURRENCY: Final = 4
"""Sessions alive at once unless the study says otherwise."""

STAGGER_NS: Final = NS_PER_S
"""Time between the starts of the first sessions."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A recorded call, checked."""

    start_s: float
    end_s: float
    think_s: float | None
    prompt: int
    output: int
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _SubAgent:
    """The last call of a sub-agent and when it ended, seconds on its parent's clock."""

    last_call: int
    end_s: float


def read_claude_code(files: Iterable[tuple[str, IO[bytes]]], name: str, options: WorkloadOptions) -> Workload:
    """The workload in `files`, one session each: (name, JSON bytes)."""
    calls: list[Call] = []
    sessions: list[tuple[str, range]] = []
    for file_name, content in islice(files, options.limit):
        record = parse_json_object(content.read(), file_name)
        where = f"{file_name}, session {text(record, 'id', file_name)!r}"
        first = len(calls)
        _SessionReader(record, where, len(sessions), options, calls).read()
        sessions.append((record["id"], range(first, len(calls))))
    concurrency = min(options.concurrency or DEFAULT_CONCURRENCY, max(len(sessions), 1))
    cap = options.think_cap_ns / NS_PER_S
    return Workload(
        name,
        options.block_size,
        closed_loop_sessions(sessions, concurrency, STAGGER_NS),
        calls,
        concurrency,
        {
            "Workload": f"{len(sessions):,} recorded Claude Code sessions, {len(calls):,} calls, closed loop",
            "Sessions alive at once": closed_loop_in_words(concurrency, STAGGER_NS),
            "Think and tool times": f"as recorded, capped at {cap:g} s",
            "Prefix identities": "as recorded, local to a session; where the next call extends a call, it names the "
            "blocks that the call's output fills",
        },
    )


class _SessionReader:
    """Appends the calls of one session to `calls`."""

    def __init__(
        self, record: Mapping[str, Any], where: str, session: int, options: WorkloadOptions, calls: list[Call]
    ) -> None:
        scope = text(record, "hash_id_scope", where)
        if scope not in ("local", "global"):
            raise WorkloadError(f"{where}: field 'hash_id_scope' is {scope!r}; it must be 'local' or 'global'")
        self.record = record
        self.where = where
        self.session = session
        self.scope = session + 1 if scope == "local" else 0
        self.trace_block_size = integer(record, "block_size", where, least=1)
        self.ratio = split_ratio(self.trace_block_size, options.block_size)
        self.block_size = options.block_size
        self.think_cap_ns = options.think_cap_ns
        self.calls = calls

    def read(self) -> None:
        """Append all calls, those of sub-agents right after the call that they follow."""
        requests = items(self.record, "requests", self.where)
        if not requests:
            raise WorkloadError(f"{self.where}: field 'requests' is empty; leave the session out")
        self._agent(requests, self.where, ())

    def _agent(self, records: Sequence[Any], where: str, first_after: tuple[Dependency, ...]) -> None:
        """Append the calls of the main agent or of a sub-agent, whose first call waits for `first_after`."""
        places = [f"{where}, request {number}" for number in range(len(records))]
        for record, place in zip(records, places, strict=True):
            if not isinstance(record, Mapping):
                raise WorkloadError(f"{place}: must be a JSON object, but is {record!r}")
        own = [number for number, record in enumerate(records) if record.get("type") != "subagent"]
        requests = {number: self._request(records[number], places[number]) for number in own}
        hashes = dict(zip(own, self._page_hashes([requests[number] for number in own]), strict=True))
        previous: tuple[int, _Request] | None = None
        running: list[_SubAgent] = []
        turn = 0
        for number, (record, place) in enumerate(zip(records, places, strict=True)):
            if number not in requests:
                running.append(self._sub_agent(record, place, previous, first_after))
                continue
            request = requests[number]
            after = first_after if previous is None else (self._think(previous, request),)
            after += tuple(
                Dependency(sub.last_call, self._capped(request.start_s - sub.end_s))
                for sub in running
                if sub.end_s <= request.start_s
            )
            running = [sub for sub in running if sub.end_s > request.start_s]
            index = len(self.calls)
            self.calls.append(
                Call(index, self.session, turn, request.prompt, max(request.output, 1), hashes[number], after)
            )
            previous = (index, request)
            turn += 1

    def _sub_agent(
        self,
        record: Mapping[str, Any],
        where: str,
        parent: tuple[int, _Request] | None,
        first_after: tuple[Dependency, ...],
    ) -> _SubAgent:
        """Append a sub-agent's calls. It starts after its parent's last call, or beside it if that still ran."""
        start = seconds(record, "t", where)
        after = first_after
        if parent is not None:
            index, request = parent
            if start < request.end_s:
                after = (Dependency(index, self._capped(start - request.start_s), Trigger.DISPATCH),)
            else:
                after = (Dependency(index, self._capped(start - request.end_s)),)
        requests = items(record, "requests", where)
        if not requests:
            raise WorkloadError(f"{where}: field 'requests' of the sub-agent is empty; leave it out")
        self._agent(requests, where, after)
        duration = inf
        if record.get("duration_ms") is not None:
            duration = integer(record, "duration_ms", where, most=10**12) / 1000
        return _SubAgent(len(self.calls) - 1, start + duration)

    def _request(self, record: Mapping[str, Any], where: str) -> _Request:
        prompt = integer(record, "in", where, least=1)
        ids = block_ids(record, "hash_ids", where)
        if len(ids) > -(-prompt // self.trace_block_size):
            raise WorkloadError(
                f"{where}: field 'hash_ids' has {len(ids)} ids, too many for {prompt} tokens in blocks of "
                f"{self.trace_block_size}"
            )
        start = seconds(record, "t", where)
        return _Request(
            start,
            start + (optional_seconds(record, "api_time", where) or 0.0),
            optional_seconds(record, "think_time", where),
            prompt,
            integer(record, "out", where),
            ids[: prompt // self.trace_block_size],
        )

    def _think(self, previous: tuple[int, _Request], request: _Request) -> Dependency:
        """The recorded think time; where it is missing, the gap between the two calls."""
        index, before = previous
        think = request.think_s if request.think_s is not None else request.start_s - before.end_s
        return Dependency(index, self._capped(think))

    def _capped(self, delay_s: float) -> int:
        return min(max(seconds_to_ns(delay_s), 0), self.think_cap_ns)

    def _page_hashes(self, requests: Sequence[_Request]) -> list[NDArray[np.uint64]]:
        """Chain hashes of one agent's calls. A call that its successor extends is a view of the successor's."""
        result: list[NDArray[np.uint64]] = []
        successor: _Request | None = None
        for request in reversed(requests):
            known = len(request.ids)
            blocks = request.prompt // self.block_size
            extended = (
                successor is not None
                and known > 0
                and len(successor.ids) >= known
                and bool(successor.ids[known - 1] == request.ids[-1])
            )
            if extended and successor is not None:
                if successor.prompt >= request.prompt + request.output:
                    blocks = (request.prompt + request.output) // self.block_size
                else:
                    blocks = min(blocks, known * self.ratio)
                result.append(result[-1][:blocks])
            else:
                result.append(expand(request.ids, self.ratio, self.scope, blocks))
            successor = request
        result.reverse()
        return result
