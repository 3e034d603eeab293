"""One simulated replica: the compiled scheduler, driven as the engine drives it, and a device that takes time."""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from ...scheduler import CONTRACT_HASH, EventKind, Policy, Scheduler, SchedulerConfig
from ...scheduler.trace_file import TraceFile
from ..cost.roofline import CostModel
from ..recording.recorder import Recorder
from ..workload.workload import Call
from .host_link import HostLink


class Replica:
    """Plans steps while others are in flight, as far as the overlap depth allows, and lands them in order.

    The host plans one step at a time, `host_step_ns` each; the device runs one step at a time. With overlap depth 0 the
    two take turns, with 1 the host plans the next step while the device runs one.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        index: int,
        config: SchedulerConfig,
        cost: CostModel,
        host_step_ns: int,
        recorder: Recorder,
        on_finish: Callable[[int, int], None],
        policy: str | Policy = "default",
    ) -> None:
        """on_finish: called with (call index, now) when a call's last token has landed.

        policy: a built-in one by name, or one of your own.
        """
        self.index = index
        self.live_calls = 0
        self.scheduler = Scheduler(config, CONTRACT_HASH, policy)
        self.trace: TraceFile | None = None
        """Where the scheduler's transitions are written, if anywhere."""
        self._link: HostLink | None = None
        if config.num_host_blocks:
            self._link = HostLink(environment, config.host_copy_tokens_per_s, self._copied)
        self._environment = environment
        self._cost = cost
        self._host_step_ns = host_step_ns
        self._recorder = recorder
        self._on_finish = on_finish
        self._record_step = recorder.steps.extend
        self._most_in_flight = config.overlap_depth + 1
        self._in_flight: deque[tuple[int, int, int]] = deque()  # step, end, sampled tokens
        self._host_free_ns = 0
        self._device_free_ns = 0
        self._idle: simpy.Event | None = None
        self._sampled = np.zeros(config.max_running, dtype=np.int32)
        environment.process(self._run())

    def submit(self, call: Call, now: int) -> bool:
        """Queue a call; False if the scheduler rejects it, which is recorded."""
        self._recorder.arrived(call, now, self.index)
        answer = self.scheduler.submit_hashed(call.index, call.prompt_tokens, call.page_hashes, call.output_tokens)
        if not answer:
            self._recorder.rejected[call.index] = answer.reason
            return False
        self.live_calls += 1
        self._wake(now)
        return True

    def _wake(self, now: int) -> None:
        """Something has happened: plan, or have the process do it if it sleeps."""
        if self._idle is None:
            self._plan(now)
        elif not self._idle.triggered:
            self._idle.succeed()  # the process resumes after all arrivals of this instant

    def _copied(self, copy_ids: NDArray[np.int64], now: int) -> None:
        self.scheduler.transfer_done(copy_ids)
        self._wake(now)

    def _run(self) -> Generator[simpy.Event, Any, None]:
        """One simpy event for each step; none while there is nothing to do."""
        environment, in_flight, land, sampled_ids = (
            self._environment,
            self._in_flight,
            self.scheduler.land,
            self._sampled,
        )
        now = 0
        while True:
            if in_flight:
                step, end, sampled = in_flight[0]
                yield environment.timeout(end - now)
                now = end
                in_flight.popleft()
                land(step, sampled_ids[:sampled])
            else:
                self._idle = environment.event()
                yield self._idle
                self._idle = None
                now = int(environment.now)
            self._plan(now)

    def _plan(self, now: int) -> None:
        """Plan as many steps as may be in flight, then note what has happened."""
        in_flight, scheduler = self._in_flight, self.scheduler
        while len(in_flight) < self._most_in_flight:
            plan = scheduler.plan()
            if plan is None:
                break
            rows, tokens, decode_rows, context = plan.rows, plan.tokens, plan.decode_rows, plan.context_tokens
            sampled = plan.sampling_rows
            planned = max(now, self._host_free_ns) + self._host_step_ns
            start = max(planned, self._device_free_ns)
            end = start + self._cost.step_ns(rows, tokens, decode_rows, context, plan.attention_pairs)
            self._host_free_ns = planned
            self._device_free_ns = end
            in_flight.append((plan.step, end, sampled))
            level = scheduler.stats()
            self._record_step(
                (
                    self.index,
                    start,
                    end,
                    rows,
                    tokens,
                    decode_rows,
                    sampled,
                    context,
                    level.held_blocks,
                    level.cached_blocks,
                    level.running,
                    level.waiting,
                )
            )
        if self._link is not None and (copies := scheduler.copies()) is not None:
            self._link.start(copies, now)
        for kind, call, value in scheduler.events():
            self._note(kind, call, value, now)
        if self.trace is not None:
            self.trace.append()

    def _note(self, kind: int, call: int, value: int, now: int) -> None:
        recorder = self._recorder
        if kind == EventKind.ADMITTED:
            recorder.admitted(call, now, value)
        elif kind == EventKind.FETCHED:
            recorder.fetched(call, value)
        elif kind == EventKind.FIRST_TOKEN:
            if recorder.first_token_ns[call] < 0:
                recorder.first_token_ns[call] = now
        elif kind == EventKind.FINISHED:
            recorder.finished(call, now, value)
            self.live_calls -= 1
            self._on_finish(call, now)
        elif kind == EventKind.RETRACTED:
            recorder.retractions[call] += 1
