"""In the steady state the scheduler asks for no memory: counted by an operator new of our own, in C++."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenspeed.scheduler import Scheduler, SchedulerConfig


@pytest.fixture(scope="module")
def program(build_program: Callable[[str], Path]) -> Path:
    return build_program("no_allocation")


@pytest.mark.parametrize(("overlap_depth", "block_size"), [(0, 16), (1, 16), (2, 64)])
def test_plan_and_land_allocate_nothing(program: Path, overlap_depth: int, block_size: int) -> None:
    command = [str(program), str(overlap_depth), str(block_size)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    steps, blocks, allocations = map(int, answer.split())
    assert steps > 600, "every request makes 600 output tokens"
    assert blocks > 32 * 600 // block_size, "they cross page borders while decoding"
    assert allocations == 0


def test_arrays_are_views_of_buffers_that_are_used_again() -> None:
    scheduler = Scheduler(SchedulerConfig(num_blocks=64, block_size=4, max_running=4, overlap_depth=0))
    scheduler.submit(1, np.arange(5, dtype=np.int32), 60)
    addresses = set()
    for _ in range(60):
        plan = scheduler.plan()
        assert plan is not None
        assert id(plan.input_ids.base) == id(plan), "a copy would have no base"
        addresses.add(plan.slots.__array_interface__["data"][0])
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
    assert len(addresses) <= 2, "the plan that is held, and the next one"
