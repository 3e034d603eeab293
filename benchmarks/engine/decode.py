"""One engine whose steps are timed on the device, and the measurements that it is driven through."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from shapes import step_flops, weight_bytes

from tokenspeed.engine.loop.control_loop import ControlLoop, Submission
from tokenspeed.engine.loop.events import Ended, Failed, Rejected
from tokenspeed.engine.models.model import Model
from tokenspeed.engine.run.decode_graphs import default_buckets
from tokenspeed.engine.run.exchange import LaunchedStep
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.run.step_arrays import StepArrays
from tokenspeed.engine.text.sampling_params import SamplingParams
from tokenspeed.scheduler import Scheduler, SchedulerConfig, StepPlan

MAX_RUNNING = 128
MAX_STEP_TOKENS = 8192
BANDWIDTH = 3.0e12
"""Bytes per second of the roofline, as in the issue's table; the device reads faster."""
WARM_UP = 24


@dataclass(frozen=True, slots=True)
class Launch:
    """When a step was launched, on the host and on the device."""

    rows: int
    tokens: int
    context_tokens: int
    host_s: float
    begin: torch.cuda.Event
    end: torch.cuda.Event


class Words:
    """Makes text of tokens without a tokenizer."""

    def add(self, token: int) -> str:
        """Always the same word."""
        return " word"

    def finish(self) -> str:
        """Nothing is held back."""
        return ""


class TimedRunner(ModelRunner):
    """Records every step, and leaves the model out of prompts while `filling`: what is in the cache is made up."""

    filling = False
    launches: list[Launch]
    keep_rows = 0
    """The inputs of the first decode step of so many rows are kept, for `replay_ms`."""
    kept: torch.Tensor | None = None
    _skip = False

    def launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> LaunchedStep:
        """As always, between two events."""
        self._skip = self.filling and plan.tokens != plan.rows
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start = time.perf_counter()
        begin.record(self._stream)
        launched = super().launch(plan, sampling)
        end.record(self._stream)
        seconds = time.perf_counter() - start
        if self.kept is None and plan.rows == plan.tokens == self.keep_rows:
            with self._on_stream():
                self.kept = self._exchange._device.clone()
        self.launches.append(Launch(plan.rows, plan.tokens, plan.context_tokens, seconds, begin, end))
        return launched

    def _run(self, step: StepArrays[torch.Tensor], columns: int, **options: Any) -> None:
        if not self._skip:
            super()._run(step, columns, **options)
        elif len(step.last):
            self._last_tokens.index_fill_(0, step.result_slots, 1)
            self._exchange.results[: len(step.last)] = 1


class Engine:
    """A model with a runner; every measurement makes its own scheduler and loop."""

    def __init__(self, shape: str, model: Model, *, num_blocks: int, block_size: int, overlap_depth: int) -> None:
        self.shape = shape
        self.model = model
        self._limits: dict[str, Any] = {
            "num_blocks": num_blocks,
            "block_size": block_size,
            "max_running": MAX_RUNNING,
            "max_step_tokens": MAX_STEP_TOKENS,
            "overlap_depth": overlap_depth,
        }
        self.buckets = default_buckets(MAX_RUNNING)
        self.runner = TimedRunner(
            model,
            num_blocks=num_blocks,
            block_size=block_size,
            max_running=MAX_RUNNING,
            max_step_tokens=MAX_STEP_TOKENS,
            decode_buckets=self.buckets,
        )
        self.runner.launches = []
        for pool in self.runner.cache.pools:
            for tensor in pool:
                tensor.normal_()
        torch.cuda.synchronize()
        before, start = torch.cuda.mem_get_info()[0], time.perf_counter()
        self.runner.capture()
        self.capture_seconds = time.perf_counter() - start
        self.graph_bytes = before - torch.cuda.mem_get_info()[0]
        self._next_id = 1

    def prompt(self, tokens: int) -> np.ndarray:
        """A prompt that shares nothing with others."""
        ids = np.random.default_rng(self._next_id).integers(0, 1000, tokens, dtype=np.int32)
        self._next_id += 1
        return ids

    def scheduler(self, **changes: Any) -> Scheduler:
        """A fresh one over the same cache."""
        return Scheduler(SchedulerConfig(**(self._limits | changes)))

    def decode(self, batch: int, context: int, new_tokens: int, *, filling: bool = True) -> list[Launch]:
        """Run `batch` requests through a control loop to their end; returns the steps in which all of them decode."""
        finished = threading.Semaphore(0)

        def publish(outputs: list[Any]) -> None:
            for output in outputs:
                if isinstance(output, Failed | Rejected):
                    raise SystemExit(f"error: a request of the measurement fails: {output.reason}")
                if isinstance(output, Ended):
                    finished.release()

        self.runner.filling, self.runner.launches = filling, []
        self.runner.keep_rows, self.runner.kept = batch, None
        # The first requests decode already while the others' prompts are taken in.
        new_tokens += -(-batch * context // MAX_STEP_TOKENS)
        loop = ControlLoop(
            self.scheduler(),
            self.runner,
            detokenizer=lambda prompt, params: Words(),
            eos_token_ids=[],
            publish=publish,
        )
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        for _ in range(batch):
            prompt = self.prompt(context)
            loop.submit(Submission(self._next_id, prompt, params))
        loop.start()
        for _ in range(batch):
            if not finished.acquire(timeout=120):
                raise SystemExit("error: the requests of a measurement do not end")
        assert loop.close(30)
        torch.cuda.synchronize()
        self.runner.filling = False
        return [step for step in self.runner.launches if step.rows == step.tokens == batch]

    def replay_ms(self, rows: int, rounds: int = 7, times: int = 10) -> float:
        """Milliseconds of the kernels of a step of so many rows, replayed back to back after `decode` ran some."""
        graphs = self.runner._graphs
        assert self.runner.kept is not None
        self.runner._exchange._device.copy_(self.runner.kept)
        torch.cuda.synchronize()
        bucket = next(size for size in graphs.buckets if size >= rows)
        seen = []
        for _ in range(rounds):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with torch.cuda.stream(self.runner._stream):
                begin.record()
                for _ in range(times):
                    graphs.replay(bucket)
                end.record()
            end.synchronize()
            seen.append(begin.elapsed_time(end) / times)
        return statistics.median(seen)


def measure_decode(engine: Engine, batch: int, context: int, steps: int) -> dict[str, Any]:
    """The figures of one batch and context."""
    seen = engine.decode(batch, context, steps + WARM_UP + 8)[WARM_UP : WARM_UP + steps]
    total = seen[0].end.elapsed_time(seen[-1].end)
    idle = [a.end.elapsed_time(b.begin) for a, b in itertools.pairwise(seen)]
    step_ms = total / (len(seen) - 1)
    each = [a.end.elapsed_time(b.end) for a, b in itertools.pairwise(seen)]
    cached = seen[len(seen) // 2].context_tokens
    layout = engine.model.cache_layout
    return {
        "batch": batch,
        "context": context,
        "steps": len(seen),
        "step_ms": step_ms,
        "step_p50_ms": statistics.median(each),
        "step_p99_ms": sorted(each)[int(len(each) * 0.99)],
        "kernels_ms": engine.replay_ms(batch),
        "idle_percent": 100 * sum(idle) / total,
        "roofline_ms": (weight_bytes(engine.shape, batch) + cached * layout.bytes_per_token) / BANDWIDTH * 1e3,
        "tokens_per_s": batch / step_ms * 1e3,
        "host_ms": 1e3 * statistics.median(step.host_s for step in seen),
    }


def measure_prefill(engine: Engine, chunk: int, prefix: int, decoding: int) -> dict[str, Any]:
    """The figures of a step of `chunk` prompt tokens behind `prefix` cached ones, beside `decoding` rows of 1k."""
    runner = engine.runner
    device_ms, launch_ms, flops = [], [], 0.0
    for _ in range(4):
        # Prompts are computed without a model until the step that is measured.
        runner.filling, runner.launches = True, []
        scheduler = engine.scheduler(max_step_tokens=max(chunk + decoding, MAX_RUNNING), overlap_depth=0)
        for _ in range(decoding):
            prompt = engine.prompt(1024)
            scheduler.submit(engine._next_id, prompt, 100)
        taken = None
        while decoding and (taken is None or not taken.rows == taken.tokens == decoding):
            taken = step(scheduler, runner)
        if chunk:
            prompt = engine.prompt(prefix + chunk)
            scheduler.submit(engine._next_id, prompt, 2)
            for _ in range(prefix // chunk):
                step(scheduler, runner)
        runner.filling, runner.launches = False, []
        plan = step(scheduler, runner)
        (launch,) = runner.launches
        device_ms.append(launch.begin.elapsed_time(launch.end))
        launch_ms.append(1e3 * launch.host_s)
        flops = step_flops(engine.shape, plan.tokens, plan.sampling_rows, plan.attention_pairs)
    step_ms = statistics.median(device_ms[1:])
    return {
        "chunk": chunk,
        "prefix": prefix,
        "decoding": decoding,
        "step_ms": step_ms,
        "launch_ms": statistics.median(launch_ms[1:]),
        "tflops": flops / step_ms / 1e9,
    }


def step(scheduler: Scheduler, runner: TimedRunner) -> StepPlan:
    """Plan, run and land one step."""
    plan = scheduler.plan()
    assert plan is not None
    result = runner.launch(plan, {}).wait()
    scheduler.land(plan.step, result.tokens)
    torch.cuda.synchronize()
    return plan
