"""Token arrays of requests of one length begin at different cache lines: appending to all of them does not miss."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def test_long_arrays_do_not_share_a_set_of_the_cache(build_program: Callable[[str], Path]) -> None:
    done = subprocess.run([build_program("staggered")], check=True, stdout=subprocess.PIPE, text=True)
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert {held for _, held in rows} == {10 + 2 * 39_990}
    lines = Counter(line for line, _ in rows)
    assert max(lines.values()) <= 4, "64 arrays over 64 lines of a page; without staggering all begin at one"
