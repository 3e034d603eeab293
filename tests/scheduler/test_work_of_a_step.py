"""A decode step costs what its batch costs: not what its context costs, and nothing for those that wait.

No clock: the C++ is compiled so that it counts the functions that it enters.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def calls(build_program: Callable[[str], Path]) -> Callable[..., int]:
    """(context, running, waiting, pool) -> function calls of a decode step in the middle of a page."""
    program = build_program("work_of_a_step")

    def calls(context: int, running: int, waiting: int, pool: str = "full") -> int:
        command = [str(program), str(context), str(running), str(waiting), pool]
        counts = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        assert len(counts) == 10 and len(set(counts)) == 1, f"one step is like the other: {counts}"
        return int(counts[0])

    return calls


@pytest.mark.parametrize("running", [1, 16])
def test_a_decode_step_does_not_depend_on_the_context(calls: Callable[..., int], running: int) -> None:
    assert calls(256, running, 0) == calls(16_384, running, 0)


@pytest.mark.parametrize("pool", ["full", "promised"])
def test_requests_that_cannot_be_admitted_cost_nothing(calls: Callable[..., int], pool: str) -> None:
    alone, one = calls(512, 8, 0, pool), calls(512, 8, 1, pool)
    assert one - alone < 100, "one look at whether the head of the line fits now"
    assert calls(512, 8, 300, pool) == one
    assert calls(8192, 8, 30, pool) == one, "a prompt that waits is not hashed or matched again"


def test_work_grows_with_the_batch_no_faster_than_it(calls: Callable[..., int]) -> None:
    assert calls(256, 32, 0) < 2.2 * calls(256, 16, 0)
