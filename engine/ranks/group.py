"""The other ranks as the first one sees them: started, sent every step, watched."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess

from ...scheduler import StepPlan
from ..loop.runner import RunnerLost
from ..models.model import Model
from ..run.runner import ModelRunner
from ..run.step.exchange import LaunchedStep
from ..text.sampling_params import SamplingParams
from .sent_plan import SentPlan
from .worker import Broken, RankOptions, Ready, RunnerLimits, Step, build_rank, build_runner, run_worker

START_TIMEOUT_S = 600.0


class RankGroup:
    """Processes of ranks 1 and up. `close` ends them; they also end by themselves when this process does."""

    def __init__(self, options: RankOptions) -> None:
        """Starts the processes, which begin to load."""
        context = get_context("spawn")
        self.options = options
        self.processes: list[BaseProcess] = []
        self._connections: list[connection.Connection] = []
        self._reasons: dict[int, str] = {}
        self._ready: set[int] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._callback: Callable[[Exception], None] | None = None
        for rank in range(1, options.parallelism.world):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=run_worker, args=(options, rank, theirs), name=f"tokenspeed-rank-{rank}", daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._connections.append(ours)
        self._watcher = threading.Thread(target=self._watch, name="tokenspeed-ranks", daemon=True)
        self._watcher.start()

    @property
    def failure(self) -> str | None:
        """Which rank is lost and why; None while all live."""
        with self._changed:
            return self._failure()

    def _failure(self) -> str | None:
        if not self._reasons:
            return None
        return "; ".join(f"rank {rank} is lost: {reason}" for rank, reason in sorted(self._reasons.items()))

    def wait_for_failure(self, seconds: float) -> str | None:
        """The same, after giving a rank that is about to be lost some time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._reasons), seconds)
            return self._failure()

    def wait_until_ready(self) -> None:
        """Return when every rank has built its runner. Raises RunnerLost if one is lost, or takes too long."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._reasons or len(self._ready) == len(self.processes), START_TIMEOUT_S
            )
            if self._reasons or not done:
                raise RunnerLost(self._failure() or f"a rank was not ready after {START_TIMEOUT_S:g} s")

    def on_failure(self, callback: Callable[[Exception], None]) -> None:
        """Have `callback` called once, on any thread, when a rank is lost."""
        with self._changed:
            self._callback = callback
            failure = self._failure()
        if failure is not None:
            callback(RunnerLost(failure))

    def send(self, message: RunnerLimits | Step) -> None:
        """Send to all ranks. Raises RunnerLost if one is lost."""
        if (failure := self.failure) is not None:
            raise RunnerLost(failure)
        packed = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        for rank, link in enumerate(self._connections, start=1):
            try:
                link.send_bytes(packed)
            except OSError as error:
                raise RunnerLost(self.wait_for_failure(5.0) or f"rank {rank} is lost: {error}") from error

    def close(self, timeout_s: float = 10.0) -> None:
        """End all processes; those that do not end by themselves are killed."""
        self._closing = True
        for link in self._connections:
            link.close()
        for process in self.processes:
            process.join(timeout_s)
            if process.is_alive():
                process.kill()
                process.join()

    def _watch(self) -> None:
        """Notes what ranks say, and that they end."""
        links = dict(zip(self._connections, range(1, len(self._connections) + 1), strict=True))
        ends = {process.sentinel: rank for rank, process in enumerate(self.processes, start=1)}
        while ends and not self._closing:
            for event in connection.wait([*links, *ends], timeout=0.5):
                if self._closing:
                    return
                if isinstance(event, int):
                    rank = ends.pop(event)
                    process = self.processes[rank - 1]
                    process.join(1.0)  # so that its exit status is there
                    self._lose(rank, f"its process ended with {_exit(process.exitcode)}")
                else:
                    self._hear(event, links)  # type: ignore[arg-type]

    def _hear(self, link: connection.Connection, links: dict[connection.Connection, int]) -> None:
        rank = links[link]
        try:
            message = link.recv()
        except (EOFError, OSError):
            del links[link]  # its process ends, which says more
            return
        if isinstance(message, Broken):
            self._lose(rank, message.reason)
        elif isinstance(message, Ready):
            with self._changed:
                self._ready.add(rank)
                self._changed.notify_all()

    def _lose(self, rank: int, reason: str) -> None:
        with self._changed:
            first = not self._reasons
            self._reasons.setdefault(rank, reason)
            self._changed.notify_all()
            callback, failure = self._callback, self._failure()
        if first and callback is not None:
            callback(RunnerLost(failure))


def _exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


class RankedRunner:
    """Runs every step on all ranks: sends it to the others, then runs this process's part of it."""

    def __init__(self, group: RankGroup, runner: ModelRunner) -> None:
        self.group = group
        self.local = runner

    def launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> LaunchedStep:
        """See `ModelRunner.launch`. Raises RunnerLost, naming the rank, if one is lost.

        A step that this rank alone cannot run loses the group too: the others wait in its collectives, and those of the
        next step would meet them there.
        """
        self.group.send(Step(SentPlan.of(plan), dict(sampling)))
        try:
            return self.local.launch(plan, sampling)
        except Exception as error:
            # A collective fails when a process at its other end is gone; that it is gone may be known a moment later.
            failure = self.group.wait_for_failure(5.0)
            raise RunnerLost(
                failure or f"rank 0 could not run step {plan.step}, which the other ranks run: {error}"
            ) from error

    def watch(self, lost: Callable[[Exception], None]) -> None:
        """Have `lost` called when a rank is lost, whether or not a step runs."""
        self.group.on_failure(lost)

    def close(self) -> None:
        """End the other ranks."""
        self.group.close()


def start_ranks(options: RankOptions) -> tuple[RankGroup, Model]:
    """Starts the other ranks and builds this one's model.

    Raises ValueError if the model or the mapping cannot work, or a rank was lost; no process is left then.
    """
    group = RankGroup(options)
    with _ended_on_failure(group):
        return group, build_rank(options, 0)


def ranked_runner(group: RankGroup, model: Model, limits: RunnerLimits) -> RankedRunner:
    """Builds the runners of all ranks, together. Raises ValueError if a rank was lost; no process is left then."""
    with _ended_on_failure(group):
        group.send(limits)
        runner = build_runner(model, limits)
        group.wait_until_ready()
    return RankedRunner(group, runner)


@contextmanager
def _ended_on_failure(group: RankGroup) -> Iterator[None]:
    """If this rank fails, another one may be why: then that is what is reported."""
    try:
        yield
    except Exception as error:
        failure = group.wait_for_failure(1.0)
        group.close(1.0)
        if failure is not None and not isinstance(error, ValueError):
            raise ValueError(failure) from error
        raise
