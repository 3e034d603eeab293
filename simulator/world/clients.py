"""The users of a simulation: they send each call when its time has come and start sessions as places come free."""

from collections.abc import Callable

from ..workload.workload import Call, Dependency, Trigger, Workload
from .clock import Clock


class Clients:
    """Plays a workload. Costs one simpy event for each call and nothing while a call runs."""

    def __init__(
        self,
        clock: Clock,
        workload: Workload,
        send: Callable[[Call, int], bool],
        on_end: Callable[[int], None],
        on_session_end: Callable[[int], None],
    ) -> None:
        """send: gives (call, now) to a replica, says whether it was accepted. on_end: called when a call has ended,
        on_session_end: when all calls of a session have."""
        self._clock = clock
        self._workload = workload
        self._send = send
        self._on_end = on_end
        self._on_session_end = on_session_end
        self._waits_for = [len(call.after) for call in workload.calls]
        self._ready_ns = [0] * len(workload.calls)
        self._followers: dict[tuple[int, Trigger], list[tuple[Call, int]]] = {}
        for call in workload.calls:
            for dependency in call.after:
                self._followers.setdefault(_key(dependency), []).append((call, dependency.delay_ns))
        self._calls_left = [len(session.calls) for session in workload.sessions]
        self._next_session = 0
        for _ in range(workload.concurrency or 1):
            self._start_next_session(0)

    def completed(self, index: int, now: int) -> None:
        """The call has ended: answered in full, or rejected."""
        self._trigger(index, Trigger.COMPLETION, now)
        session = self._workload.calls[index].session
        self._calls_left[session] -= 1
        if self._calls_left[session] == 0:
            self._on_session_end(session)
            if self._workload.closed_loop:
                self._start_next_session(now)
        self._on_end(index)

    def _start_next_session(self, now: int) -> None:
        """Schedule the first calls of the next session in line, now or at its own start time if that is later."""
        if self._next_session == len(self._workload.sessions):
            return
        session = self._workload.sessions[self._next_session]
        self._next_session += 1
        start = max(session.start_ns, now)
        for index in session.calls:
            call = self._workload.calls[index]
            if not call.after:
                self._at(start, call)

    def _at(self, start: int, call: Call) -> None:
        """Dispatch the call at `start`. Equal times keep the order in which they were asked for."""
        self._clock.at(start, self._clock.client, lambda: self._dispatch(call, start))

    def _dispatch(self, call: Call, now: int) -> None:
        if not self._workload.closed_loop:
            self._start_next_session(now)  # an open-loop session brings its successor along, so the queue stays short
        self._trigger(call.index, Trigger.DISPATCH, now)
        if not self._send(call, now):
            self.completed(call.index, now)

    def _trigger(self, index: int, trigger: Trigger, now: int) -> None:
        for call, delay in self._followers.get((index, trigger), ()):
            waiting = self._waits_for[call.index] - 1
            self._waits_for[call.index] = waiting
            self._ready_ns[call.index] = ready = max(self._ready_ns[call.index], now + delay)
            if waiting == 0:
                self._at(ready, call)


def _key(dependency: Dependency) -> tuple[int, Trigger]:
    return dependency.call, dependency.trigger
