"""The engine as seen from asyncio: requests go in, streams of new text come out.

The control loop publishes the events of all requests once per turn; one callback on the event loop sorts them to their
owners. An owner takes everything that has arrived since it last looked, so a slow client makes for fewer and larger
pieces, never for a growing queue of wake-ups.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...scheduler import Scheduler
from ..run.drafts import Drafter
from ..text.sampling_params import SamplingParams
from ..text.tokenizer import Tokenizer
from .control_loop import ControlLoop, Snapshot, Submission
from .events import Admitted, Ended, Failed, Rejected, RequestEvent
from .generation import Generation
from .metrics import RequestTimes, ServingMetrics
from .runner import Copier, Runner
from .trace_recorder import TraceRecorder


class Overloaded(RuntimeError):
    """Too many requests are waiting; try again later."""


class EngineStopped(RuntimeError):
    """The engine takes no requests any more."""


@dataclass(slots=True)
class _Live:
    """A request that is not over: its owner, which of the owner's prompts it is, and its times."""

    owner: Generation
    index: int
    times: RequestTimes
    waiting: bool = True


class AsyncEngine:
    """One replica: scheduler, runner and control loop. Used from one event loop's thread, the one that makes it.

    Args:
        scheduler: not used by anybody else from now on.
        runner: executes steps.
        tokenizer: for the text of the output and the end-of-sequence tokens.
        metrics: what clients experience is recorded here.
        max_waiting: requests that may wait for admission; more are refused with Overloaded.
        on_failure: called on the event loop if the engine cannot go on; all requests have had their error by then.
        copier: executes copies to and from the host, if the scheduler has a host tier.
        trace: records the scheduler's transitions.
        step_timeout: seconds after which a step counts as hung and the engine cannot go on; None waits for ever.
        drafter: guesses what requests say next.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        tokenizer: Tokenizer,
        metrics: ServingMetrics,
        *,
        max_waiting: int,
        on_failure: Callable[[], None] = lambda: None,
        copier: Copier | None = None,
        trace: TraceRecorder | None = None,
        step_timeout: float | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self._events = asyncio.get_running_loop()
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._waiting = 0
        self._live: dict[int, _Live] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._request_ids = itertools.count(1)
        self.block_size = scheduler.config.block_size
        """Tokens per KV block."""
        self._stopping = False
        self._loop = ControlLoop(
            scheduler,
            runner,
            detokenizer=lambda prompt, params: tokenizer.detokenizer(prompt, params.skip_special_tokens),
            eos_token_ids=tokenizer.eos_token_ids,
            publish=lambda events: self._post(self._deliver, events),
            on_failure=lambda: self._post(on_failure),
            copier=copier,
            trace=trace,
            step_timeout=step_timeout,
            drafter=drafter,
        )
        self._loop.start()

    @property
    def failed_steps(self) -> int:
        """Steps that failed one after another, up to the newest one; 0 while the runner works."""
        return self._loop.failed_steps

    def generate(self, requests: Sequence[tuple[NDArray[np.int32], SamplingParams]]) -> Generation:
        """Queue requests: prompts (int32 [tokens >= 1]) and their parameters, one choice for each.

        Call the result's `abandon` when done with it. Raises Overloaded or EngineStopped; then none is queued.
        """
        if self._stopping:
            raise EngineStopped("the server is shutting down")
        if self._waiting + len(requests) > self._max_waiting:
            self._metrics.reject("overloaded")
            raise Overloaded(f"{self._waiting} requests are waiting already, and at most {self._max_waiting} may")
        generation = Generation([len(prompt) for prompt, _ in requests], self._abort)
        for index, (prompt, params) in enumerate(requests):
            request_id = next(self._request_ids)
            generation.request_ids.append(request_id)
            self._live[request_id] = _Live(generation, index, RequestTimes(len(prompt)))
            self._loop.submit(Submission(request_id, prompt, params))
        self._waiting += len(requests)
        self._idle.clear()
        return generation

    async def snapshot(self, timeout: float = 1.0) -> Snapshot | None:
        """The scheduler's counters now; None if the control loop does not answer in time."""
        answer: asyncio.Future[Snapshot] = self._events.create_future()

        def set_answer(snapshot: Snapshot) -> None:
            if not answer.done():
                answer.set_result(snapshot)

        self._loop.ask(lambda snapshot: self._post(set_answer, snapshot))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            return None

    @property
    def live_requests(self) -> int:
        """Requests that are not over."""
        return len(self._live)

    async def drain(self, grace: float) -> None:
        """Take no new requests from now on, and wait up to `grace` seconds for the live ones to finish."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()

    def close(self, timeout: float) -> bool:
        """End all requests and both threads; False if the step in flight does not end in `timeout` seconds. Blocks."""
        self._stopping = True
        return self._loop.close(timeout)

    def _abort(self, request_ids: Sequence[int]) -> None:
        """The owner has left: what is still live is aborted. The entries go when the loop reports the end."""
        for request_id in request_ids:
            if request_id in self._live:
                self._loop.abort(request_id)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        """From the control loop's thread: call on the event loop, unless that is closed because the server is gone."""
        if not self._events.is_closed():
            self._events.call_soon_threadsafe(call, *arguments)

    def _deliver(self, events: list[RequestEvent]) -> None:
        for event in events:
            live = self._live[event.request_id]
            self._metrics.record(live.times, event)
            over = isinstance(event, Ended | Failed | Rejected)
            if live.waiting and (over or isinstance(event, Admitted)):
                live.waiting = False
                self._waiting -= 1
            if over:
                del self._live[event.request_id]
            live.owner.put(live.index, event)
        if not self._live:
            self._idle.set()
