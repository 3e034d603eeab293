"""The control loop: one thread that drives the scheduler and a model runner with overlap.

Everything reaches the loop through one inbox: submissions, aborts, questions, and the news that a step has been run.
The loop blocks on the inbox, so an idle engine uses no CPU. One thread issues all device work, in the order of the
plans, and launches a step before the one ahead of it is done; another waits for the results, in the same order. This
thread meanwhile lands the previous step, detokenises, decides about stops and plans the next one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...scheduler import GUARDS, CopyBatch, EventKind, Scheduler, Stats, StepPlan
from ..run.drafts import MOST_DRAFTING_ROWS, Drafter, History
from ..run.step.result import StepResult
from ..text.answer import Answer
from ..text.detokenizer import CONTEXT_TOKENS, Detokenizer
from ..text.sampling_params import SamplingParams
from .events import Accepted, Admitted, Ended, Failed, Rejected, RequestEvent, Text
from .runner import Copier, HungStep, PendingStep, Runner, RunnerLost, WatchedRunner, checked
from .running import Running
from .trace_recorder import TraceRecorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request on its way to the scheduler. `request_id` is new for each request; `prompt`: int32 [tokens >= 1]."""

    request_id: int
    prompt: NDArray[np.int32]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The scheduler's counters at one moment."""

    stats: Stats
    transitions: Mapping[str, int]
    """How often each transition of the specification was taken."""


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: int


@dataclass(frozen=True, slots=True)
class _Ask:
    answer: Callable[[Snapshot], None]


@dataclass(frozen=True, slots=True)
class _StepDone:
    """A step has been executed, or could not be."""

    plan: StepPlan
    result: StepResult | Exception


@dataclass(frozen=True, slots=True)
class _CopiesDone:
    """Copies have been executed, or could not be."""

    batch: CopyBatch
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _Lost:
    """The runner is gone."""

    error: Exception


class _Close:
    """Abort everything, wait for the steps in flight and end the thread."""


_Message = Submission | _Abort | _Ask | _StepDone | _CopiesDone | _Lost | _Close


class ControlLoop:
    """Drives one scheduler and one runner. `submit`, `abort`, `ask` and `close` may be called from any thread.

    Args:
        scheduler: driven by this loop's thread alone from `start` on.
        runner: executes steps; launched on a second thread, waited for on a third.
        detokenizer: what turns a request's output into text, from the request's prompt and parameters.
        eos_token_ids: tokens that end a request unless it ignores them.
        publish: receives the events of all requests once per turn of the loop, on the loop's thread.
        on_failure: called once, on the loop's thread, if the loop cannot go on; all requests have been ended by then.
        copier: executes copies to and from the host, on a thread of their own; needed if the scheduler has a host tier.
        trace: records the scheduler's transitions; polled once per turn of the loop, and closed at its end.
        step_timeout: seconds in which a step in flight must end, or the loop cannot go on; None waits for ever.
        drafter: guesses what requests say next, if the scheduler's `max_draft_tokens` is above 0 and the runner checks.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        detokenizer: Callable[[Sequence[int], SamplingParams], Detokenizer],
        eos_token_ids: Collection[int],
        publish: Callable[[list[RequestEvent]], None],
        on_failure: Callable[[], None] = lambda: None,
        copier: Copier | None = None,
        trace: TraceRecorder | None = None,
        step_timeout: float | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._detokenizer = detokenizer
        self._eos_token_ids = frozenset(eos_token_ids)
        self._publish = publish
        self._on_failure = on_failure
        self._copier = copier
        self._trace = trace
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._requests: dict[int, Running] = {}
        self._step_timeout = step_timeout
        self._drafter = drafter
        self._in_flight = 0
        self._progress = 0.0
        """When a step was last landed, or the first of those in flight planned, on the `time.monotonic` clock."""
        self._copying = 0
        self._events: list[RequestEvent] = []
        self._closing = False
        self.failed_steps = 0
        """Steps that failed one after another, up to the newest one; 0 while the runner works."""
        self._steps: queue.SimpleQueue[tuple[StepPlan, dict[int, SamplingParams]] | None] = queue.SimpleQueue()
        self._launched: queue.SimpleQueue[tuple[StepPlan, PendingStep | Exception] | None] = queue.SimpleQueue()
        self._copies: queue.SimpleQueue[CopyBatch | None] = queue.SimpleQueue()
        # Daemons, so that a step that hangs cannot keep the process from ending.
        self._threads = [
            threading.Thread(target=target, name=f"tokenspeed-{name}", daemon=True)
            for name, target in (
                ("loop", self._run),
                ("runner", self._launch_steps),
                ("results", self._await_results),
                *([] if copier is None else [("copier", self._execute_copies)]),
            )
        ]

    # Called from any thread.

    def start(self) -> None:
        """Start the threads."""
        if isinstance(self._runner, WatchedRunner):
            self._runner.watch(lambda error: self._inbox.put(_Lost(error)))
        for thread in self._threads:
            thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a request. Its first event says whether it was accepted."""
        self._inbox.put(submission)

    def abort(self, request_id: int) -> None:
        """End a request at any moment; nothing happens if it is over already."""
        self._inbox.put(_Abort(request_id))

    def ask(self, answer: Callable[[Snapshot], None]) -> None:
        """Have `answer` called with the scheduler's counters, on the loop's thread."""
        self._inbox.put(_Ask(answer))

    def close(self, timeout: float | None = None) -> bool:
        """Abort all requests, wait for the steps and copies in flight, and end the threads. May be called twice.

        Returns False if the runner did not finish its step within `timeout` seconds; the threads then live on.
        """
        self._inbox.put(_Close())
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The runner's thread.

    def _launch_steps(self) -> None:
        while (step := self._steps.get()) is not None:
            plan, sampling = step
            try:
                pending: PendingStep | Exception = self._runner.launch(plan, sampling)
            except Exception as error:
                pending = error
            self._launched.put((plan, pending))
        self._launched.put(None)

    # The results' thread.

    def _await_results(self) -> None:
        while (launched := self._launched.get()) is not None:
            plan, pending = launched
            try:
                result = pending if isinstance(pending, Exception) else pending.wait()
            except Exception as error:
                result = error
            self._inbox.put(_StepDone(plan, result))

    # The copier's thread.

    def _execute_copies(self) -> None:
        assert self._copier is not None
        while (batch := self._copies.get()) is not None:
            error: Exception | None = None
            try:
                self._copier.copy(batch)
            except Exception as failure:
                error = failure
            self._inbox.put(_CopiesDone(batch, error))

    # The loop's thread.

    def _run(self) -> None:
        try:
            while not self._closing or self._in_flight or self._copying:
                self._receive()
                self._launch()
                self._flush()
                if self._trace is not None:
                    self._trace.poll()
        except Exception:
            logger.exception("the control loop failed; all %d requests are ended", len(self._requests))
            self._give_up()
        finally:
            self._steps.put(None)
            self._copies.put(None)
            if self._trace is not None:
                self._trace.close()

    def _receive(self) -> None:
        """Wait for a message, then handle all that are there."""
        self._handle(self._next_message())
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            self._handle(message)

    def _next_message(self) -> _Message:
        if self._step_timeout is None or not self._in_flight:
            return self._inbox.get()
        try:
            return self._inbox.get(timeout=max(0.0, self._progress + self._step_timeout - time.monotonic()))
        except queue.Empty:
            raise HungStep(f"none of {self._in_flight} steps in flight ended in {self._step_timeout:g} s") from None

    def _handle(self, message: _Message) -> None:
        match message:
            case Submission():
                if not self._closing:
                    self._submit(message)
            case _Abort(request_id):
                self._end(request_id)
            case _Ask(answer):
                answer(self._snapshot())
            case _Close():
                self._closing = True
                for request_id in list(self._requests):
                    self._end(request_id)
            case _Lost(error):
                raise error
            case _StepDone(plan, result):
                self._in_flight -= 1
                self._progress = time.monotonic()
                self._land(plan, result)
            case _CopiesDone(batch, error):
                self._copying -= 1
                if error is not None:
                    raise error  # pages of unknown content: nothing of this pool can be trusted
                self._scheduler.transfer_done(batch.ids)

    def _submit(self, submission: Submission) -> None:
        request_id = submission.request_id
        try:
            text = self._detokenizer(submission.prompt[-CONTEXT_TOKENS:].tolist(), submission.params)
            answer = Answer(submission.params, text, self._eos_token_ids)
        except Exception as error:  # the tokenizer's errors are of no particular type
            refused: str | None = f"the prompt cannot be turned into text: {error}"
        else:
            refused = self._offer(submission)
        if refused is None:
            history = None
            if self._drafter is not None:
                history = History(submission.prompt, submission.params.max_tokens)
            self._requests[request_id] = Running(answer, history)
            self._report(Accepted(request_id))
        else:
            logger.info("request %d was refused: %s", request_id, refused)
            self._report(Rejected(request_id, refused))

    def _offer(self, submission: Submission) -> str | None:
        """Give a request to the scheduler. Returns why it is refused, if it is; the scheduler is then unchanged."""
        try:
            result = self._scheduler.submit(submission.request_id, submission.prompt, submission.params.max_tokens)
        except (ValueError, TypeError) as error:
            return str(error)
        return None if result else result.reason

    def _end(self, request_id: int, error: str | None = None) -> None:
        """Abort a request, for its owner or because of `error`."""
        if self._requests.pop(request_id, None) is None:
            return  # it finished before the abort arrived
        self._scheduler.abort(request_id)
        self._report(Ended(request_id, "abort") if error is None else Failed(request_id, error))

    def _launch(self) -> None:
        """Hand every step that can be planned to the runner."""
        while not self._closing and (plan := self._scheduler.plan()) is not None:
            # Rows of requests that end before the step runs are still executed, so the step gets its own mapping.
            sampling = {row: self._requests[row].answer.params for row in plan.request_ids[plan.outputs > 0].tolist()}
            if not self._in_flight:
                self._progress = time.monotonic()
            self._in_flight += 1
            self._steps.put((plan, sampling))
        if self._copier is not None and (copies := self._scheduler.copies()) is not None:
            self._copying += 1
            self._copies.put(copies)
        self._drain_events()

    def _land(self, plan: StepPlan, result: StepResult | Exception) -> None:
        found = checked(result, plan.outputs)
        if isinstance(found, RunnerLost):
            raise found
        if isinstance(found, Exception):
            self._fail_step(plan, found)
            return
        self.failed_steps = 0
        said: dict[int, tuple[str, int]] = {}
        broken: list[int] = []
        counts, stop = found.counts.copy(), np.zeros(plan.sampling_rows, dtype=np.bool_)
        rows = plan.request_ids[plan.outputs > 0].tolist()
        for row in np.flatnonzero(~found.healthy).tolist():
            logger.error("step %d: the logits of request %d are not finite", plan.step, rows[row])
            self._end(rows[row], error="the model's output for this request is not a number")
        ends = np.cumsum(found.counts)
        tokens = []
        for row, (request_id, end, count) in enumerate(zip(rows, ends.tolist(), found.counts.tolist(), strict=True)):
            own = found.tokens[end - count : end]
            # None if it ended while the step was in flight; the scheduler then ignores the tokens.
            running = self._requests.get(request_id)
            if running is not None:
                try:
                    text, counts[row] = running.accept(own.tolist())
                    said[request_id] = text, int(counts[row])
                    stop[row] = running.answer.stopped
                except Exception:  # whatever is wrong with this text must not end the others
                    logger.exception("request %d: %s could not be turned into text", request_id, own.tolist())
                    broken.append(request_id)
            tokens.append(own[: counts[row]])
        for request_id in broken:
            self._end(request_id, error="the output could not be turned into text")
        landed = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int32)
        self._scheduler.land(plan.step, landed, counts, stop)
        self._drain_events(said)
        for request_id, (text, number) in said.items():
            self._report(Text(request_id, text, number))
        self._draft(said)

    def _draft(self, landed: Iterable[int]) -> None:
        """Say what these requests may say next, while few of them run."""
        if self._drafter is None or self._scheduler.stats().running > MOST_DRAFTING_ROWS:
            return
        most = self._scheduler.config.max_draft_tokens
        for request_id in landed:
            running = self._requests.get(request_id)
            if running is not None and running.history is not None:
                drafts = self._drafter.propose(running.history.text, most)
                # A request that never had any keeps its steps overlapped.
                if len(drafts) or running.drafted:
                    running.drafted = True
                    self._scheduler.offer_drafts(request_id, drafts)

    def _drain_events(self, said: dict[int, tuple[str, int]] | None = None) -> None:
        """Report admissions and finishes; a request that finishes takes its text and tokens out of `said`."""
        for kind, request_id, value in self._scheduler.events():
            running = self._requests.get(request_id)
            if running is None:
                continue
            if kind == EventKind.ADMITTED and not running.admitted:
                running.admitted = True  # a retracted request is admitted again, but its owner heard of the first time
                self._report(Admitted(request_id, value))
            elif kind == EventKind.FAILED:
                del self._requests[request_id]
                logger.error("request %d: the planner proposed what %s forbids", request_id, GUARDS[value])
                self._report(Failed(request_id, "the scheduler could not plan this request"))
            elif kind == EventKind.FINISHED:
                del self._requests[request_id]
                answer = running.answer
                text, number = ("", 0) if said is None else said.pop(request_id, ("", 0))
                try:
                    rest = answer.finish()
                except Exception:  # as in `_land`: this text must not end the others
                    logger.exception("request %d: the end of its output could not be turned into text", request_id)
                    self._report(Failed(request_id, "the output could not be turned into text"))
                    continue
                self._report(Text(request_id, text + rest, number))
                self._report(Ended(request_id, answer.finish_reason, answer.stop))

    def _fail_step(self, plan: StepPlan, error: Exception) -> None:
        """The runner could not execute a step: its requests end with an error, the others go on."""
        self.failed_steps += 1
        logger.error("step %d failed; its %d requests are ended", plan.step, plan.rows, exc_info=error)
        for request_id in plan.request_ids.tolist():
            self._end(request_id, error="the model failed while it ran this request")
        # All rows belong to requests that are over, so the scheduler publishes no block that the step did not write.
        self._scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
        self._drain_events()

    def _give_up(self) -> None:
        """End all requests without the scheduler, whose state is not to be trusted any more, and refuse new ones."""
        for request_id in self._requests:
            self._report(Failed(request_id, "the engine failed"))
        self._requests.clear()
        self._flush()
        self._on_failure()
        while not self._closing:
            match self._inbox.get():
                case Submission(request_id):
                    self._report(Failed(request_id, "the engine failed"))
                    self._flush()
                case _Ask(answer):
                    answer(self._snapshot())
                case _Close():
                    self._closing = True

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._scheduler.stats(), self._scheduler.transition_counts())

    def _report(self, event: RequestEvent) -> None:
        self._events.append(event)

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._publish(events)
