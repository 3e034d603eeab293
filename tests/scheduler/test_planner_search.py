"""The shipped planner in the small: every order of client, driver, device and copy events.

`TOKENSPEED_SEARCH=large` (`make planner-search`) gives longer texts, so that requests are retracted and pages fetched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

LARGE = os.environ.get("TOKENSPEED_SEARCH") == "large"
MOST = 10_000_000 if LARGE else 200_000


@pytest.fixture(scope="module")
def search(build_program: Callable[[str], Path]) -> Callable[..., tuple[int, int]]:
    """(page, blocks, overlap depth, host pages, output tokens) -> states, events tried."""
    program = build_program("planner_search")

    def search(*setting: int) -> tuple[int, int]:
        command = [str(program), *map(str, setting), str(MOST)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{setting}: {done.stdout}{done.stderr}"
        states, tried, complete = map(int, done.stdout.split())
        assert complete == 1, f"{setting}: more than {MOST} states"
        return states, tried

    return search


@pytest.mark.parametrize("host_pages", [0, 2])
@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
@pytest.mark.parametrize("page", [1, 2])
def test_whatever_happens_when_nothing_is_refused_and_everything_ends(
    search: Callable[..., tuple[int, int]], page: int, overlap_depth: int, host_pages: int
) -> None:
    for blocks in (3, 4) if LARGE or overlap_depth < 2 else (3,):
        output = blocks * page - page if LARGE else page + 1  # the longest that fits, or one page
        states, tried = search(page, blocks, overlap_depth, host_pages, output)
        print(
            f"page {page}, {blocks} blocks, overlap {overlap_depth}, {host_pages} host pages: {states} states, {tried}"
        )
        assert states > 200 and tried > 2 * states
