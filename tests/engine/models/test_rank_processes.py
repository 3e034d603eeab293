"""Ranks as processes: real gloo, a rank that is killed, and a rank that cannot start."""

import inspect
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.loop.runner import RunnerLost
from tokenspeed.engine.ranks.group import RankedRunner, ranked_runner, start_ranks
from tokenspeed.engine.ranks.sent_plan import SentPlan
from tokenspeed.engine.ranks.worker import RankOptions, RunnerLimits, build_runner
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.spmd.mesh import Parallelism
from tokenspeed.engine.text.sampling_params import SamplingParams
from tokenspeed.scheduler import StepPlan

from .tiny import save

pytestmark = pytest.mark.serve

LIMITS = RunnerLimits(num_blocks=8, block_size=16, max_running=2, max_step_tokens=32)
PROMPT = np.arange(3, 24, dtype=np.int32)
SAMPLING = {7: SamplingParams(temperature=0.8, seed=5)}


def step(number: int, start: int, ids: np.ndarray[tuple[int], np.dtype[np.int32]], blocks: list[int]) -> SentPlan:
    """A step of request 7 in slot 1, which gets these blocks for its table."""
    count = len(ids)
    return SentPlan(
        step=number,
        rows=1,
        tokens=count,
        sampling_rows=1,
        slots=np.array([1], dtype=np.int32),
        request_ids=np.array([7], dtype=np.int64),
        start=np.array([start], dtype=np.int32),
        num_tokens=np.array([count], dtype=np.int32),
        positions=np.arange(start, start + count, dtype=np.int32),
        input_ids=ids,
        outputs=np.array([1], dtype=np.int32),
        table_slots=np.full(len(blocks), 1, dtype=np.int32),
        table_index=np.arange(start // 16, start // 16 + len(blocks), dtype=np.int32),
        table_blocks=np.array(blocks, dtype=np.int32),
    )


def generate(runner: ModelRunner | RankedRunner, count: int) -> list[int]:
    """A prompt of two blocks, then tokens one by one, each of which only the runners know."""
    unknown = np.array([-1], dtype=np.int32)
    plans = [step(0, 0, PROMPT, [4, 2]), *(step(i + 1, len(PROMPT) + i, unknown, []) for i in range(count - 1))]
    return [int(runner.launch(plan, SAMPLING).wait().tokens[0]) for plan in plans]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3-moe")
    save(path, "qwen3-moe")
    return path


@pytest.fixture(autouse=True)
def left_alone() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ranks_sample_what_one_rank_samples_and_a_killed_one_is_reported(directory: Path, tmp_path: Path) -> None:
    options = RankOptions(str(directory), Parallelism(2, ep=2), tmp_path / "store", threads=1)
    wanted = generate(build_runner(load_checkpoint(str(directory)).build(torch.float32, "cpu"), LIMITS), 6)
    group, model = start_ranks(options)
    runner = ranked_runner(group, model, LIMITS)
    heard: list[Exception] = []
    runner.watch(heard.append)
    assert generate(runner, 6) == wanted
    (process,) = group.processes
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(RunnerLost, match=r"rank 1 is lost: its process ended with signal 9"):
        while time.monotonic() < began + 30:
            generate(runner, 1)
    assert [str(error) for error in heard] == ["rank 1 is lost: its process ended with signal 9"]
    with pytest.raises(RunnerLost):
        generate(runner, 1)
    runner.close()
    assert not alive(process.pid)


def test_what_a_runner_reads_of_a_plan_is_sent() -> None:
    sources = sorted(Path(inspect.getfile(ModelRunner)).parent.glob("*.py"))
    read = {name for source in sources for name in re.findall(r"\bplan\.([a-z_]+)", source.read_text(encoding="utf-8"))}
    assert "table_blocks" in read
    assert read & set(dir(StepPlan)) <= {field.name for field in fields(SentPlan)}


def test_a_model_that_cannot_be_placed_leaves_no_process_behind(directory: Path, tmp_path: Path) -> None:
    options = RankOptions(str(directory / "absent"), Parallelism(2), tmp_path / "store", threads=1)
    with pytest.raises(ValueError, match="absent"):
        start_ranks(options)
