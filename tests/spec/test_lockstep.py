"""The compiled scheduler agrees with the specification state by state, and a changed one is found out."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pybind11
import pytest

from tokenspeed.scheduler import CHECKED, STATE_ACCESS, StateMachine
from tokenspeed.spec.commands.lockstep_command import never, run_lockstep
from tokenspeed.spec.conform.lockstep import LockStep, LockStepReport
from tokenspeed.spec.language.labels import guard_labels
from tokenspeed.spec.language.spec import Transition
from tokenspeed.spec.search.explore import available_cores
from tokenspeed.spec.search.instances import LOCK_STEP, Instance
from tokenspeed.spec.search.interpreter import State
from tokenspeed.spec.system import SPEC

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(CHECKED, reason="a checked build has ghosts, which no state can be restored with")


MODES = {"quick": (STATE_ACCESS, False), "thorough": (STATE_ACCESS, True), "through python": (StateMachine, False)}


def compare(instance: Instance, machine: object, states: int, thorough: bool = False) -> LockStepReport:
    return LockStep(SPEC, instance, machine, thorough).run(states, available_cores(), sampled=10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("instance", LOCK_STEP, ids=str)
def test_scheduler_model_and_interpreter_agree(instance: Instance, mode: str) -> None:
    machine, thorough = MODES[mode]
    report = compare(instance, machine, 10_000, thorough)
    assert report.agrees, [str(d) for d in report.disagreements]
    assert report.states >= 10_000 and report.sampled >= 10
    assert report.accepted > report.states and report.refused + report.implied > 10 * report.states
    assert (report.implied == 0) == thorough


@pytest.mark.parametrize("instance", LOCK_STEP[2:4], ids=str)
def test_what_is_left_out_changes_nothing_else(instance: Instance) -> None:
    """Twins and refusals that are not asked for again: the same states, transitions and guards are met."""
    thorough, quick = compare(instance, STATE_ACCESS, 60_000, True), compare(instance, STATE_ACCESS, 60_000)
    assert (quick.states, quick.depth, quick.complete) == (thorough.states, thorough.depth, thorough.complete)
    assert quick.taken == thorough.taken
    assert quick.refusing >= thorough.refusing
    assert quick.refused < thorough.refused / 20


WIDE = [i for i in LOCK_STEP if (i.requests, i.blocks) == (3, 4)]


def test_a_million_states_at_three_requests_and_four_blocks() -> None:
    reports = [compare(instance, STATE_ACCESS, 340_000) for instance in WIDE]
    assert sum(r.states for r in reports) >= 1_000_000
    assert all(r.agrees for r in reports), [str(d) for r in reports for d in r.disagreements]


def test_every_guard_is_seen_true_and_seen_false() -> None:
    reports = [compare(instance, STATE_ACCESS, 100_000) for instance in LOCK_STEP[:4]]
    assert never(reports, "true") == [] and never(reports, "false") == []


def test_guards_are_looked_at_each_for_itself() -> None:
    """In a few states, in which not every guard is seen both ways: as the interpreter says."""
    instance = LOCK_STEP[1]
    lock_step = LockStep(SPEC, instance, STATE_ACCESS)
    found = lock_step.explorer.explore(constants=instance.constants, max_states=400)
    stride = found.states // 20
    states, size = lock_step.explorer.sample(0, stride), lock_step.explorer.state_bytes
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for at in range(0, len(states), size):
        state = lock_step.decode(states[at : at + size])
        for t in SPEC.transitions.values():
            for bindings in proposals(lock_step, t, state):
                for guard in t.guards:
                    value = bool(lock_step.interpreter.evaluate(guard.condition, bindings, state))
                    seen[value].add(f"{t.name}:{guard.name}")
    true, false = lock_step.explorer.guards(instance.constants, stride)
    assert (true, false) == (seen[True], seen[False])
    assert len(true) < len(guard_labels(SPEC))


def proposals(lock_step: LockStep, t: Transition, state: State) -> list[dict[str, int]]:
    """All individuals, and integers from one below their ranges to one above."""
    population = lock_step.instance.population
    found: list[dict[str, int]] = [{}]
    for p in t.parameters:
        bound, found = found, []
        for bindings in bound:
            if p.type in population:
                values = range(population[p.type])
            else:
                ends = SPEC.ranges[t.name, p.name]
                low, high = (int(lock_step.interpreter.evaluate(end, bindings, state)) for end in ends)
                values = range(low - 1, high + 2)
            found += [bindings | {p.name: value} for value in values]
    return found


IDS = ["guard", "effect", "somebody_else", "something_else", "no_value", "table", "stray_entry"]


@pytest.mark.parametrize(
    ("written", "instead", "found"),
    [
        (
            "    if (block_[b].block_state != BlockState::Cached) return Guard::evict__block_CACHED;\n", "",
            "refuses by 'evict:block CACHED', the scheduler",
        ),
        ("block_[b].refs += 1;", "block_[b].refs += 2;", "then has another value of refs b"),
        ("    block_[b].fill = 0;\n", "    block_[0].fill = 0;\n", "then has another value of fill b"),
        (
            "    globals_.cached -= 1;\n",
            "    globals_.cached -= 1;\n    globals_.newest_arrival = 3;\n",
            "then has another value of newest_arrival",
        ),
        (
            "    block_[b].parent = kNone;\n",
            "    block_[b].parent = kNone - 1;\n",
            "then has another value of the block tables",
        ),
        ("holds_.set(r, b, block_[b].position, true);", "", "then has another value of holds r0 b"),
        (
            "holds_.set(r, b, block_[b].position, true);",
            "holds_.set(r, b, block_[b].position, true), holds_.set(r, b, 5 * limits_.page, true);",
            "then has another value of the block tables",
        ),
    ],
    ids=IDS,
)  # fmt: skip
def test_a_missing_guard_and_a_wrong_effect_are_found(
    tmp_path: Path, unchanged: list[str], request: pytest.FixtureRequest, written: str, instead: str, found: str
) -> None:
    """A scheduler is compiled from changed code; the lock-step names the proposal and what is wrong."""
    text = (ROOT / "scheduler" / "generated" / "machine.cpp").read_text()
    assert written in text
    name = NAMES[IDS.index(request.node.callspec.id)]
    changed = build(name, tmp_path, text.replace(written, instead), unchanged)
    report = compare(LOCK_STEP[0], changed.STATE_ACCESS, 5_000)
    assert not report.agrees
    assert found in str(report.disagreements[0])
    through_python = compare(LOCK_STEP[0], changed.StateMachine, 5_000)
    assert not through_python.agrees
    stray = found.endswith("the block tables")
    assert ("says something" if stray else found) in str(through_python.disagreements[0])


@pytest.mark.parametrize(
    ("states", "counts", "proposals", "what"),
    [
        (b"1", b"", b"", "states: not whole"),
        (bytes(0), b"1", b"", "counts"),
        (bytes(0), b"", b"123", "proposals: not whole"),
        (bytes(0), b"", b"\xff" + bytes(7), "no such transition"),
    ],
)
def test_bad_batches_are_refused(states: bytes, counts: bytes, proposals: bytes, what: str) -> None:
    assert StateMachine is not None
    machine = StateMachine(list(LOCK_STEP[0].constants[c] for c in SPEC.constants), [1, 2, 1, 1, 1])
    with pytest.raises(ValueError, match=what):
        machine.answer(states, counts, proposals)
    with pytest.raises(ValueError, match="population"):
        StateMachine(list(LOCK_STEP[0].constants[c] for c in SPEC.constants), [0, 2, 1, 1, 1])


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A module compiled without its machine: the state access and the state machine."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("unchanged")
    source = folder / "changed.cpp"
    source.write_text(
        "#include <pybind11/pybind11.h>\n"
        '#include "scheduler/verification/state_access.h"\n#include "scheduler/verification/state_machine.h"\n'
        "static void fill(pybind11::module_& m) {\n"
        '  m.attr("STATE_ACCESS") = pybind11::capsule(&tokenspeed::kStateAccess, tokenspeed::kStateAccessName);\n'
        "  tokenspeed::bind_state_machine(m);\n}\n"
        + "".join(f"PYBIND11_MODULE({name}, m) {{ fill(m); }}\n" for name in NAMES)
    )
    scheduler = ROOT / "scheduler"
    sources = [source, scheduler / "verification" / "state_machine.cpp", scheduler / "generated" / "machine_access.cpp"]
    objects = [folder / f"{path.stem}.o" for path in sources]
    for path, compiled in zip(sources, objects, strict=True):
        subprocess.run([compiler, *FLAGS, "-c", str(path), "-o", str(compiled)], check=True)
    return [str(path) for path in objects]


NAMES = [f"changed_{i}" for i in range(len(IDS))]
"""Python wants another name for each module that it loads."""

FLAGS = [
    "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", f"-I{ROOT}", f"-I{sysconfig.get_path('include')}",
    f"-I{pybind11.get_include()}",
]  # fmt: skip


def build(name: str, folder: Path, machine: str, unchanged: list[str]) -> Any:
    """The module with this text of machine.cpp."""
    source = folder / "machine.cpp"
    source.write_text(machine)
    library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["c++", *FLAGS, "-shared", str(source), *unchanged, "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_what_was_not_compared_is_not_called_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_lockstep(STATE_ACCESS, 50, instances=LOCK_STEP[:1]) == 3
    printed = capsys.readouterr().out
    assert "Never accepted, so not compared" in printed and "No divergence in what was compared." in printed


def test_the_smallest_configuration_is_compared_whole() -> None:
    """One request, one block of one token, no host page and no copy: every state there is."""
    report = LockStep(SPEC, LOCK_STEP[0], STATE_ACCESS, thorough=True).run(1_000_000, 1)
    assert report.complete and report.agrees and report.states > 100
    assert {"submit", "admit", "allocate", "prefill_last", "land_row", "finish", "recycle"} <= set(report.taken)
