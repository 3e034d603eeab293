"""One simulated replica: the compiled scheduler, driven as the engine drives it, and a device that takes time."""

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...scheduler import CONTRACT_HASH, GUARDS, EventKind, Scheduler, SchedulerConfig
from ...scheduler.trace_file import TraceFile
from ..cost.protocol import StepCost
from ..errors import ConfigurationError
from ..policies import PolicyChoice, WatchedPolicy
from ..recording.recorder import CallColumns
from ..recording.steps import StepRecorder
from ..workload.workload import Call
from .clock import Clock
from .host_link import HostLink


class Replica:
    """Plans steps while others are in flight, as far as the overlap depth allows, and lands them in order.

    The host plans one step at a time, `host_step_ns` each; the device runs one step at a time. With overlap depth 0 the
    two take turns, with 1 the host plans the next step while the device runs one.
    """

    def __init__(
        self,
        clock: Clock,
        index: int,
        config: SchedulerConfig,
        cost: StepCost,
        host_step_ns: int,
        calls: CallColumns,
        on_finish: Callable[[int, int], None],
        policy: PolicyChoice = "default",
    ) -> None:
        """on_finish: called with (call index, now) when a call's last token has landed."""
        self.index = index
        self.steps = StepRecorder(index)
        self.trace: TraceFile | None = None
        """Where the scheduler's transitions are written, if anywhere."""
        self.stored: set[int] = set()
        """Chain hashes of the pages on the device, as signed 64-bit numbers, if the configuration has KV events."""
        self._clock = clock
        self._config = config
        self._cost = cost
        self._host_step_ns = host_step_ns
        self._calls = calls
        self._on_finish = on_finish
        self._policy = policy
        self._most_in_flight = config.overlap_depth + 1
        self._sampled = np.zeros(config.max_running, dtype=np.int32)
        self._life = 0  # events of an earlier life of the replica mean nothing
        self._start(0)

    def _start(self, now: int) -> None:
        """With an empty scheduler."""
        self.watched = WatchedPolicy(self._policy)
        self.scheduler = Scheduler(self._config, CONTRACT_HASH, self.watched.policy)
        self.live: dict[int, None] = {}
        self.stored.clear()
        self._in_flight: deque[tuple[int, int, int, int, int, int, tuple[int, ...]]] = deque()
        self._host_free_ns = self._device_free_ns = now
        self._landing = self._planning = False  # whether there is an event for it
        self._link: HostLink | None = None
        if self._config.num_host_blocks:
            life, rank = self._life, self._clock.copying(self.index)

            def at(end: int, act: Callable[[], None]) -> None:
                self._clock.at(end, rank, lambda: act() if self._life == life else None)

            self._link = HostLink(self._config.host_copy_tokens_per_s, at, self._copied)

    def submit(self, call: Call, now: int) -> str | None:
        """Queue a call; why not, if the scheduler rejects it."""
        answer = self.scheduler.submit_hashed(call.index, call.prompt_tokens, call.page_hashes, call.output_tokens)
        if not answer:
            return answer.reason
        self.live[call.index] = None
        self._plan_soon(now)
        return None

    def fail(self, now: int) -> list[int]:
        """Lose everything: the scheduler's state, the KV cache and the steps in flight. Returns the calls lost."""
        if self.trace is not None:
            raise ConfigurationError("a replica that fails cannot be recorded in a trace; leave out one of the two")
        lost = list(self.live)
        self._life += 1
        self._start(now)
        return lost

    def _plan_soon(self, now: int) -> None:
        """Plan when everything else of this instant has happened."""
        if self._planning or len(self._in_flight) == self._most_in_flight:
            return
        self._planning = True
        life = self._life
        self._clock.at(now, self._clock.planning(self.index), lambda: self._plan(now, life))

    def _copied(self, copy_ids: NDArray[np.int64], now: int) -> None:
        self.scheduler.transfer_done(copy_ids)
        self._plan_soon(now)

    def _land_next(self) -> None:
        """Have the oldest step in flight land when it has run."""
        if not self._landing and self._in_flight:
            self._landing = True
            end, life = self._in_flight[0][2], self._life
            self._clock.at(end, self._clock.landing(self.index), lambda: self._land(end, life))

    def _land(self, now: int, life: int) -> None:
        if life != self._life:
            return
        self._landing = False
        step, start, end, sampled, context, pairs, levels = self._in_flight.popleft()
        self.scheduler.land(step, self._sampled[:sampled])
        self.steps.add(start, end, context, pairs, levels)
        self._note_events(now)
        self._land_next()
        if self._clock.next_time() > now:
            self._plan(now, life)  # nothing else happens now
        else:
            self._plan_soon(now)

    def _plan(self, now: int, life: int) -> None:
        """Plan as many steps as may be in flight."""
        if life != self._life:
            return
        self._planning = False
        scheduler, watched = self.scheduler, self.watched
        while len(self._in_flight) < self._most_in_flight:
            plan = scheduler.plan()
            watched.raise_errors()
            if plan is None:
                break
            rows, sampled = plan.rows, plan.sampling_rows
            planned = max(now, self._host_free_ns) + self._host_step_ns
            start = max(planned, self._device_free_ns)
            end = start + max(self._cost.step_ns(plan), 1)
            self._host_free_ns = planned
            self._device_free_ns = end
            level = scheduler.stats()
            levels = (
                rows,
                plan.tokens,
                plan.decode_rows,
                sampled,
                level.held_blocks,
                level.cached_blocks,
                level.running,
                level.waiting,
            )
            self._in_flight.append((plan.step, start, end, sampled, plan.context_tokens, plan.attention_pairs, levels))
        self._land_next()
        if self._link is not None and (copies := scheduler.copies()) is not None:
            self._link.start(copies, now)
        self._note_events(now)
        if self.trace is not None:
            self.trace.append()

    def _note_events(self, now: int) -> None:
        calls, stored = self._calls, self.stored
        for kind, call, value in self.scheduler.events():
            if kind == EventKind.ADMITTED:
                calls.admitted(call, now, value)
            elif kind == EventKind.FETCHED:
                calls.fetched(call, value)
            elif kind == EventKind.FIRST_TOKEN:
                calls.first_token(call, now)
            elif kind == EventKind.FINISHED:
                calls.finished(call, now, value)
                del self.live[call]
                self._on_finish(call, now)
            elif kind == EventKind.FAILED:
                raise RuntimeError(f"call {call}: the planner proposed what {GUARDS[value]} forbids")
            elif kind == EventKind.RETRACTED:
                calls.retractions[call] += 1
            elif kind == EventKind.KV_STORED:
                stored.add(value)
            elif kind == EventKind.KV_REMOVED:
                stored.discard(value)
