"""A planner with a fault: what it does is refused, one request ends for it, and the search in the small finds it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenspeed.scheduler import EventKind
from tokenspeed.spec.conform.binary import SCHEDULER

PRESSURE = SCHEDULER / "core/planning/pressure.cpp"
LOOK = " || machine_.stamp(candidate) > machine_.landed()"
"""With it, no page is taken that a step in flight may still read."""
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def faulty(
    build_program: Callable[[str], Path], compiler: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Name of a program -> binary, linked with a planner that does not look whether a page is still read."""
    folder = tmp_path_factory.mktemp("faulty")
    objects = build_program("planner_search").parent / "CMakeFiles/tokenspeed_scheduler.dir"
    library = [p for room in ("core", "generated") for p in (SCHEDULER / room).rglob("*.cpp") if p != PRESSURE]
    others = [objects / f"{path.relative_to(SCHEDULER.parent)}.o" for path in library]
    text = PRESSURE.read_text()
    assert text.count(LOOK) == 1
    (folder / "pressure.cpp").write_text(text.replace(LOOK, ""))

    def build(name: str) -> Path:
        sources = [folder / "pressure.cpp", PROGRAMS / f"{name}.cpp"]
        command: list[str | Path] = [compiler, "-std=c++20", "-O0", f"-I{SCHEDULER.parent}", *sources]
        command += [*others, "-o", folder / name]
        subprocess.run(command, check=True)
        return folder / name

    return build


def test_a_refused_proposal_ends_one_request_and_the_others_go_on(faulty: Callable[[str], Path]) -> None:
    done = subprocess.run([faulty("refusal")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "refused 2 evict:not in flight" in lines
    assert f"{EventKind.FAILED} 2" in lines and f"{EventKind.FINISHED} 3" in lines
    assert len([line for line in lines if line.startswith(f"{EventKind.FAILED} ")]) == 1


def test_the_search_in_the_small_finds_it(faulty: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [faulty("planner_search"), *["2", "3", "1", "0", "3", "100000"]], check=False, capture_output=True
    )
    assert done.returncode == 1 and done.stdout.startswith(b"wrong: a proposal was refused, after ")
