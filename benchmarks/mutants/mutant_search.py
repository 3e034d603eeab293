"""Judges and searches mutants in a process of its own; see __main__.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

# Nothing here may import tokenspeed.spec.search.explore: two explorers cannot be loaded into one process.
from tokenspeed.spec.generate.explorer import model
from tokenspeed.spec.prove.mutants import Mutant, Mutation, mutants
from tokenspeed.spec.search.instances import INSTANCES, Instance
from tokenspeed.spec.search.switchable import switchable
from tokenspeed.spec.system import SPEC

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((1, 2, 2), (2, 2, 2))
"""Requests, blocks and steps of what is searched. A third block takes longest."""
SEARCHED = tuple(i for i in INSTANCES if (i.requests, i.blocks, i.steps) in SIZES)
STATES = 300_000
"""Most states of an instance."""


def build(folder: Path) -> Path:
    """Compile an explorer of the specification with all its mutants."""
    model.COMPILED = tuple(dict.fromkeys(tuple(i.population.items()) for i in SEARCHED))
    sources = ROOT / "spec" / "explorer"
    (folder / "generated").mkdir()
    for path in [*sources.glob("*.h"), *sources.glob("*.cpp")]:
        (folder / path.name).write_text(path.read_text())
    for name, text in model.ExplorerGenerator(switchable(SPEC), claims=True).files().items():
        (folder / "generated" / name).write_text(text)
    includes = subprocess.run(
        [sys.executable, "-m", "pybind11", "--includes"], check=True, capture_output=True, text=True
    ).stdout.split()
    flags = ["-O1", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-DTOKENSPEED_MODULE=_mutants", "-w"]
    units = [folder / "explorer.cpp", *(folder / "generated").glob("*.cpp")]

    def compile_one(unit: Path) -> str:
        made = unit.with_suffix(".o")
        command = ["c++", *flags, f"-I{folder}", f"-I{ROOT}", *includes, "-c", str(unit), "-o", str(made)]
        subprocess.run(command, check=True)
        return str(made)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_one, units))
    library = folder / f"_mutants{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["c++", "-shared", *objects, "-o", str(library)], check=True)
    return library


class Worker:
    """Judges and searches mutants in one process."""

    def __init__(self, library: Path) -> None:
        loader = importlib.util.spec_from_file_location("_mutants", library)
        assert loader is not None and loader.loader is not None
        self.explorer: ModuleType = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(self.explorer)
        self.mutants: Sequence[Mutant] = list(mutants(SPEC))
        self.judge = Mutation(SPEC)

    def row(self, number: int) -> dict[str, Any]:
        """What is found out about the n-th mutant, from 1."""
        mutant = self.mutants[number - 1]
        outcome = self.judge.judge(mutant)
        row: dict[str, Any] = {"mutant": str(mutant), "verdict": outcome.verdict, "killed_by": outcome.killers[:3]}
        for instance in SEARCHED if outcome.verdict == "killed" else ():
            found = self.search(instance, number)
            if found.violated:
                return row | {"violated": found.violated, "events": len(found.trace), "instance": str(instance)}
        return row

    def search(self, instance: Instance, mutant: int) -> Any:
        """The beginning of one instance of the mutant (0: of the specification itself)."""
        return self.explorer.Explorer(instance.population).explore(
            constants=instance.constants | {"MUTANT": mutant}, max_states=STATES, threads=1
        )


_worker: list[Worker] = []


def start(library: Path) -> None:
    """Prepare this process."""
    _worker.append(Worker(library))


def row(number: int) -> dict[str, Any]:
    """As `Worker.row`."""
    return _worker[0].row(number)


def unmutated(number: int) -> str:
    """What is violated in the n-th instance without a mutant: nothing, or the searches say nothing."""
    return str(_worker[0].search(SEARCHED[number], 0).violated)
