"""Between clients and replicas: routes calls, refuses those that can never run, and sends lost ones again."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from ..recording.recorder import CallColumns
from ..routing import ReplicaView, Router
from ..timebase import seconds_to_ns
from ..workload.workload import Call, Workload
from .clock import Clock


class OutageKind(Enum):
    """What happens to a replica."""

    FAILURE = "failure"
    """It loses its calls and its KV cache at once; the calls are sent again. It comes back empty."""
    DRAIN = "drain"
    """It gets no new calls, finishes those it has, and comes back with its KV cache."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A replica that is not there for a while."""

    replica: int
    start_ns: int
    end_ns: int
    """When it takes calls again."""
    kind: OutageKind = OutageKind.FAILURE


OUTAGE: Final = re.compile(r"(\d+):(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)(?::(failure|drain))?")


def parse_outage(text: str) -> Outage:
    """An outage like 1:30-90 or 0:600-700:drain (replica, from, to in seconds). Raises ConfigurationError."""
    match = OUTAGE.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"outage is {text!r}; write REPLICA:FROM-TO in seconds, like 1:30-90, and :drain behind it for a drain"
        )
    kind = OutageKind(match[4] or "failure")
    return Outage(int(match[1]), seconds_to_ns(float(match[2])), seconds_to_ns(float(match[3])), kind)


class Fleet(Protocol):
    """The replicas, whoever steps them."""

    def submit(self, replica: int, call: Call, now: int) -> str | None:
        """Queue a call on a replica; why not, if its scheduler rejects it."""
        ...

    def fail(self, replica: int, now: int) -> list[int]:
        """The replica loses everything and is empty; returns the calls that it lost, in the order they were sent."""
        ...

    def stored_pages(self, replica: int, pages: NDArray[np.uint64]) -> int:
        """How many of these pages, from the first on, its KV events say are on the device."""
        ...


class Dispatcher:
    """Sends calls to replicas. While none is available calls wait here, in order."""

    def __init__(
        self,
        clock: Clock,
        workload: Workload,
        fleet: Fleet,
        router: Router,
        replicas: int,
        max_context: int | None,
        calls: CallColumns,
        on_completed: Callable[[int, int], None],
    ) -> None:
        """on_completed: called with (call index, now) when a call that was accepted has ended."""
        self._clock = clock
        self._workload = workload
        self._fleet = fleet
        self._router = router
        self._max_context = max_context
        self._calls = calls
        self._on_completed = on_completed
        self._held: list[Call] = []
        self._down = [0] * replicas  # outages at the moment
        self._uncached: dict[int, int] = {}
        self._session_on: dict[int, int] = {}
        self.views = [ReplicaView(index, workload.block_size) for index in range(replicas)]
        if router.needs_kv_events:
            for view in self.views:
                view.stored_pages = partial(fleet.stored_pages, view.index)

    def plan_outage(self, outage: Outage) -> None:
        """Have it happen."""
        self._clock.at(outage.start_ns, self._clock.outage, lambda: self._begin(outage))
        self._clock.at(outage.end_ns, self._clock.outage, lambda: self._end(outage))

    def send(self, call: Call, now: int) -> bool:
        """The client sends a call; False if it is rejected, which is noted."""
        self._calls.arrival_ns[call.index] = now
        whole = call.prompt_tokens + call.output_tokens
        if self._max_context is not None and whole > self._max_context:
            self._calls.rejected[call.index] = (
                f"prompt of {call.prompt_tokens} tokens and {call.output_tokens} of output exceed the model's context "
                f"of {self._max_context} tokens (max_context)"
            )
            return False
        return self._route(call, now)

    def _route(self, call: Call, now: int) -> bool:
        if not any(view.available for view in self.views):
            self._held.append(call)
            return True
        index = self._router.choose(call, self.views)
        if not isinstance(index, int) or not 0 <= index < len(self.views) or not self.views[index].available:
            raise ConfigurationError(
                f"router {type(self._router).__name__} chose replica {index!r} for call {call.index}; it must choose "
                f"one of {[view.index for view in self.views if view.available]}"
            )
        view = self.views[index]
        cached = view.cached_tokens(call) if self._router.needs_kv_events else 0
        self._calls.replica[call.index] = index
        reason = self._fleet.submit(index, call, now)
        if reason is not None:
            self._calls.rejected[call.index] = reason
            return False
        view.chosen += 1
        view.live_calls += 1
        view.live_tokens += call.prompt_tokens + call.output_tokens
        self._uncached[call.index] = call.prompt_tokens - cached
        view.uncached_tokens += call.prompt_tokens - cached
        self._settle(call.session, index)
        return True

    def _settle(self, session: int, index: int) -> None:
        """The session lives where its last call went."""
        before = self._session_on.get(session)
        if before != index:
            if before is None:
                self.views[index].sessions += 1
            else:
                self.views[before].live_sessions -= 1
            self.views[index].live_sessions += 1
            self._session_on[session] = index

    def _left(self, index: int) -> None:
        """The call is no longer on its replica."""
        call = self._workload.calls[index]
        view = self.views[self._calls.replica[index]]
        view.live_calls -= 1
        view.live_tokens -= call.prompt_tokens + call.output_tokens
        view.uncached_tokens -= self._uncached.pop(index)

    def finished(self, index: int, now: int) -> None:
        """A replica has answered a call in full."""
        self._left(index)
        self._on_completed(index, now)

    def session_ended(self, session: int) -> None:
        """The last call of a session has ended."""
        before = self._session_on.pop(session, None)
        if before is not None:
            self.views[before].live_sessions -= 1

    def _begin(self, outage: Outage) -> None:
        self._down[outage.replica] += 1
        self.views[outage.replica].available = False
        if outage.kind is OutageKind.FAILURE:
            for index in self._fleet.fail(outage.replica, outage.start_ns):
                self._left(index)
                self._calls.restarted(index)
                self._send_again(self._workload.calls[index], outage.start_ns)

    def _end(self, outage: Outage) -> None:
        self._down[outage.replica] -= 1
        if self._down[outage.replica] == 0:
            self.views[outage.replica].available = True
            held, self._held = self._held, []
            for call in held:
                self._send_again(call, outage.end_ns)

    def _send_again(self, call: Call, now: int) -> None:
        if not self._route(call, now):
            self._on_completed(call.index, now)
