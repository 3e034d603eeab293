"""Recorded Claude Code sessions (kv-cache-tester traces, Apache-2.0): closed loop, one JSON object per session.

Session fields: id, block_size, hash_id_scope (local: ids mean something inside the session only; global), requests.
Request fields: t (s since the session's or sub-agent's start), in, out (tokens), hash_ids (one chain id for each full
block of the prompt), think_time and api_time (s, may be missing). A request of type "subagent" has t, requests of its
own and, unless it never ended, duration_ms: a later request of its parent that starts after its end waits for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError
from ..timebase import NS_PER_S, seconds_to_ns
from ..workload.chain_ids import ChainIds
from ..workload.options import WorkloadOptions
from ..workload.page_hashes import extended, split_ratio
from ..workload.workload import Call, Dependency, Trigger, Workload, closed_loop_in_words, closed_loop_sessions
from .fields import block_ids, integer, items, optional_seconds, optional_text, parse_json_object, seconds, text
from .notices import Notices

DEFAULT_CONCURRENCY: Final = 4
"""Sessions alive at once unless the study says otherwise."""

STAGGER_NS: Final = NS_PER_S
"""Time between the starts of the first sessions."""

REQUEST_FIELDS: Final = frozenset({"t", "type", "model", "in", "out", "hash_ids", "think_time", "api_time"})
SUB_AGENT_FIELDS: Final = frozenset({"t", "type", "requests", "duration_ms"})
SESSION_FIELDS: Final = frozenset({"id", "block_size", "hash_id_scope", "requests", "models"})
"""Fields that are read. `models` lists what the requests name one by one."""


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
    notices, models = Notices(options.skip_bad), Counter[str]()
    shared_ids = ChainIds(options.block_ids)
    for file_name, content in files:
        if len(sessions) == options.limit:
            break
        first = len(calls)
        with notices.record():
            record = parse_json_object(content.read(), file_name)
            where = f"{file_name}, session {text(record, 'id', file_name)!r}"
            reader = _SessionReader(record, where, len(sessions), options, calls, shared_ids, notices)
            try:
                reader.read()
            except WorkloadError:
                del calls[first:]
                raise
            models.update(reader.models)
            sessions.append((record["id"], range(first, len(calls))))
    concurrency = min(options.concurrency or DEFAULT_CONCURRENCY, max(len(sessions), 1))
    cap = options.think_cap_ns / NS_PER_S
    recorded = ", ".join(f"{model} ({count:,} calls)" for model, count in sorted(models.items()))
    warnings = list(notices.warnings("sessions"))
    if len(models) > 1:
        warnings.insert(0, f"the trace has calls of several models, which are all simulated as one: {recorded}")
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
            "Recorded models": recorded or "not recorded",
        },
        warnings=tuple(warnings),
        chains_checked=True,
    )


class _SessionReader:
    """Appends the calls of one session to `calls`."""

    def __init__(
        self,
        record: Mapping[str, Any],
        where: str,
        session: int,
        options: WorkloadOptions,
        calls: list[Call],
        shared_ids: ChainIds,
        notices: Notices,
    ) -> None:
        scope = text(record, "hash_id_scope", where)
        if scope not in ("local", "global"):
            raise WorkloadError(f"{where}: field 'hash_id_scope' is {scope!r}; it must be 'local' or 'global'")
        self.record = record
        self.where = where
        self.session = session
        self.scope = session + 1 if scope == "local" else 0
        self.trace_block_size = integer(record, "block_size", where, least=1)
        split_ratio(self.trace_block_size, options.block_size)
        self.block_size = options.block_size
        self.think_cap_ns = options.think_cap_ns
        self.calls = calls
        self.ids = shared_ids if scope == "global" else ChainIds(options.block_ids)
        self.notices = notices
        self.models: Counter[str] = Counter()
        notices.unused(record, SESSION_FIELDS)

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
        texts = [(request.ids, request.prompt, request.output) for request in requests.values()]
        pages = extended(texts, self.trace_block_size, self.block_size, self.scope)
        hashes = dict(zip(own, pages, strict=True))
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
        self.notices.unused(record, SUB_AGENT_FIELDS)
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
        model = optional_text(record, "model", where)
        if model is not None:
            self.models[model] += 1
        self.notices.unused(record, REQUEST_FIELDS)
        return _Request(
            start,
            start + (optional_seconds(record, "api_time", where) or 0.0),
            optional_seconds(record, "think_time", where),
            prompt,
            integer(record, "out", where),
            self.ids.accept(ids[: prompt // self.trace_block_size], where),
        )

    def _think(self, previous: tuple[int, _Request], request: _Request) -> Dependency:
        """The recorded think time; where it is missing, the gap between the two calls."""
        index, before = previous
        think = request.think_s if request.think_s is not None else request.start_s - before.end_s
        return Dependency(index, self._capped(think))

    def _capped(self, delay_s: float) -> int:
        return min(max(seconds_to_ns(delay_s), 0), self.think_cap_ns)
