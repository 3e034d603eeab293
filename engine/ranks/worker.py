"""What a rank's process does: build its part of the model, then run every step that it is sent."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from ..checkpoints.loader import load_checkpoint
from ..models.model import Model
from ..run.runner import ModelRunner
from ..run.step.exchange import LaunchedStep
from ..spmd.mesh import Mesh, Parallelism
from ..spmd.runtime.collectives import DistributedCommunicator
from ..spmd.runtime.place import Place
from ..text.sampling_params import SamplingParams
from .sent_plan import SentPlan


@dataclass(frozen=True, slots=True)
class RankOptions:
    """What every rank of a world is started with."""

    model: str
    parallelism: Parallelism
    store: Path
    """A file that does not exist yet, by which the ranks find each other."""
    load_format: str = "auto"
    threads: int | None = None
    """CPU threads of torch in each process."""
    collective_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Sizes of the runner, decided by rank 0."""

    num_blocks: int
    block_size: int
    max_running: int
    max_step_tokens: int
    decode_buckets: tuple[int, ...] = ()
    overlap_depth: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """A step to run."""

    plan: SentPlan
    sampling: Mapping[int, SamplingParams]


@dataclass(frozen=True, slots=True)
class Ready:
    """The rank has built its runner."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The rank cannot go on; why."""

    reason: str


def build_rank(options: RankOptions, rank: int) -> Model:
    """Join the world and build a rank's part of the model: bfloat16 on GPU `rank`, or float32 on the CPU.

    Raises ValueError if the model or the mapping cannot work, and what torch.distributed raises if a rank is missing.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.model, options.load_format)
    timeout = timedelta(seconds=options.collective_timeout_s)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{options.store}",
        rank=rank,
        world_size=options.parallelism.world,
        timeout=timeout,
    )
    place = Place(Mesh.of(options.parallelism), rank, lambda plan: DistributedCommunicator(plan, timeout=timeout))
    dtype, device = (torch.bfloat16, f"cuda:{rank}") if on_gpu else (torch.float32, "cpu")
    return checkpoint.build(dtype, device, place)


def build_runner(model: Model, limits: RunnerLimits) -> ModelRunner:
    """The runner of a rank, its decode steps recorded; every rank does this at the same time."""
    runner = ModelRunner(
        model,
        num_blocks=limits.num_blocks,
        block_size=limits.block_size,
        max_running=limits.max_running,
        max_step_tokens=limits.max_step_tokens,
        decode_buckets=limits.decode_buckets,
    )
    runner.capture()
    return runner


def run_worker(options: RankOptions, rank: int, connection: Connection) -> None:
    """The process of a rank other than the first; ends when the first one does."""
    # Ctrl-C reaches the whole foreground group; the first process drains, and ends this one when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    try:
        model = build_rank(options, rank)
        limits = inbox.get()
        assert isinstance(limits, RunnerLimits)
        runner = build_runner(model, limits)
        connection.send(Ready())
        in_flight: deque[LaunchedStep] = deque()
        while True:
            step = inbox.get()
            assert isinstance(step, Step)
            in_flight.append(runner.launch(step.plan, step.sampling))  # type: ignore[arg-type]
            while len(in_flight) > limits.overlap_depth:
                in_flight.popleft().wait()
    except Exception as error:
        connection.send(Broken(f"{type(error).__name__}: {error}"))
        raise


def _read(connection: Connection, inbox: queue.SimpleQueue[object]) -> None:
    """Hands on what arrives; the end of the first rank's process is the end of this one, whatever it waits for."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)
