"""The compiled scheduler agrees with the specification state by state, and a changed one is found out."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tokenspeed.scheduler import CHECKED, STATE_ACCESS
from tokenspeed.spec.explore import available_cores
from tokenspeed.spec.instances import LOCK_STEP, Instance
from tokenspeed.spec.lockstep import LockStep, LockStepReport
from tokenspeed.spec.machines import SPEC

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(CHECKED, reason="a checked build has ghosts, which no state can be restored with")


def compare(instance: Instance, machine: object, states: int) -> LockStepReport:
    return LockStep(SPEC, instance, machine).run(states, available_cores(), sampled=10)


@pytest.mark.parametrize("instance", LOCK_STEP, ids=str)
def test_scheduler_model_and_interpreter_agree(instance: Instance) -> None:
    report = compare(instance, STATE_ACCESS, 10_000)
    assert report.agrees, [str(d) for d in report.disagreements]
    assert report.states >= 10_000 and report.sampled >= 10
    assert report.accepted > report.states and report.refused > 10 * report.states


@pytest.mark.parametrize(
    ("written", "instead", "found"),
    [
        (
            "  if (!(block_[b].block_state == BlockState::Cached)) return Guard::evict__block_CACHED;\n", "",
            "refuses by 'evict:block CACHED', the scheduler",
        ),
        ("refs = block_[b].refs + 1;", "refs = block_[b].refs + 2;", "then has another value of refs b"),
    ],
    ids=["guard", "effect"],
)  # fmt: skip
def test_a_missing_guard_and_a_wrong_effect_are_found(tmp_path: Path, written: str, instead: str, found: str) -> None:
    """A scheduler is compiled from changed code; the lock-step names the proposal and what is wrong."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    shutil.copytree(ROOT / "scheduler", tmp_path / "scheduler", ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    machine = tmp_path / "scheduler" / "generated" / "machine.cpp"
    text = machine.read_text()
    assert written in text
    machine.write_text(text.replace(written, instead))
    report = compare(LOCK_STEP[0], build(compiler, tmp_path, f"changed_{'effect' if instead else 'guard'}"), 5_000)
    assert not report.agrees
    assert found in str(report.disagreements[0])


def build(compiler: str, folder: Path, name: str) -> object:
    """A module with the state access of the scheduler in the folder, and nothing else."""
    source = folder / f"{name}.cpp"
    source.write_text(
        f'#include <Python.h>\n#include "scheduler/state_access.h"\n'
        f'static PyModuleDef module = {{PyModuleDef_HEAD_INIT, "{name}", nullptr, -1, nullptr}};\n'
        f"PyMODINIT_FUNC PyInit_{name}() {{\n  PyObject* m = PyModule_Create(&module);\n"
        f"  auto* access = const_cast<tokenspeed::StateAccess*>(&tokenspeed::kStateAccess);\n"
        f'  PyModule_AddObject(m, "STATE_ACCESS", PyCapsule_New(access, tokenspeed::kStateAccessName, nullptr));\n'
        f"  return m;\n}}\n"
    )
    library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    generated = folder / "scheduler" / "generated"
    sources = [source, generated / "machine.cpp", generated / "machine_access.cpp"]
    include = [f"-I{folder}", f"-I{sysconfig.get_path('include')}"]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", *include]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded.STATE_ACCESS
