"""Generated files are what the specification generates, and the interpreter refuses what guards refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenspeed.scheduler import Machine
from tokenspeed.spec.conform.monitor import Divergence, Monitor
from tokenspeed.spec.generate.files import generated_files
from tokenspeed.spec.search.interpreter import GuardFalse, Interpreter
from tokenspeed.spec.system import SPEC

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(generated_files()))
def test_committed_file_is_fresh(name: str) -> None:
    assert (ROOT / name).read_text() == generated_files()[name], "run `make generated`"


def test_interpreter_names_the_false_guard() -> None:
    interpreter = Interpreter(SPEC, dict.fromkeys(SPEC.constants, 2))
    with pytest.raises(GuardFalse, match=r"evict\(b=0\): guard 'block CACHED' is false: block_state\(b\) = CACHED"):
        interpreter.apply(interpreter.start(), SPEC.transitions["evict"], {"b": 0}, dict.fromkeys(SPEC.sorts, 2))


def test_monitor_finds_a_wrong_state_and_a_wrong_transition() -> None:
    machine = Machine(page=4, blocks=2, steps=1)
    monitor = Monitor(SPEC, machine.limits)
    names = list(SPEC.transitions)
    monitor.follow([[names.index("submit"), 4, 0, 3, 5, 1]])
    machine.add_request()
    assert machine.apply(names.index("submit"), [0, 3, 5, 1]) == ""
    snapshot = machine.snapshot()
    monitor.compare(snapshot)
    snapshot["known"][0,] = 4
    with pytest.raises(
        Divergence, match=r"known: the specification has \{\(0,\): 3\}, the scheduler has \{\(0,\): 4\}"
    ):
        monitor.compare(snapshot)
    del snapshot["known"]
    with pytest.raises(Divergence, match="known: the snapshot lacks it"):
        monitor.compare(snapshot)
    with pytest.raises(GuardFalse, match="close"):
        monitor.follow([[names.index("close"), 1, 0]])
