"""Which mutants of the specification have a reachable violation: `make bench-mutants`.

`tokenspeed verify --mutants` says that each mutant breaks something named, by proof. Here each is searched as well: all
mutants are compiled into one explorer, switched by a constant, and small instances are searched until one violates a
property, a counter or a choice. A mutant without such a trace is known from its proof only (progress claims are not
searched). Takes about 15 minutes on one core; writes results/latest.json.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import ModuleType

from tokenspeed.spec import generate_explorer
from tokenspeed.spec.instances import COMPILED, INSTANCES
from tokenspeed.spec.machines import SPEC
from tokenspeed.spec.mutants import Mutation, mutants
from tokenspeed.spec.switchable import switchable

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).parent / "results" / "latest.json"
SIZES = ((1, 2, 1), (1, 2, 2), (2, 2, 2))
"""Requests, blocks and steps of the instances; one host page and one copy each."""
MOST_STATES = 300_000


def compiled_explorer(folder: Path) -> ModuleType:
    """An explorer of the specification with all its mutants."""
    generate_explorer.COMPILED = tuple(p for p in COMPILED if tuple(n for _, n in p)[:3] in SIZES)
    sources = ROOT / "spec" / "explorer"
    (folder / "generated").mkdir()
    for path in [*sources.glob("*.h"), *sources.glob("*.cpp")]:
        (folder / path.name).write_text(path.read_text())
    for name, text in generate_explorer.ExplorerGenerator(switchable(SPEC)).files().items():
        (folder / "generated" / name).write_text(text)
    library = folder / f"_mutants{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = subprocess.run(
        [sys.executable, "-m", "pybind11", "--includes"], check=True, capture_output=True, text=True
    ).stdout.split()
    units = [str(p) for p in (folder / "explorer.cpp", *(folder / "generated").glob("*.cpp"))]
    flags = ["-O2", "-std=c++20", "-shared", "-fPIC", "-fvisibility=hidden", "-DTOKENSPEED_MODULE=_mutants"]
    subprocess.run(["c++", *flags, f"-I{folder}", f"-I{ROOT}", *includes, *units, "-o", str(library)], check=True)
    loader = importlib.util.spec_from_file_location("_mutants", library)
    assert loader is not None and loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


def main() -> None:
    """Judge every mutant by proof, then search those that are not equivalent."""
    start = time.perf_counter()
    instances = [i for i in INSTANCES if (i.requests, i.blocks, i.steps) in SIZES]
    judge = Mutation(SPEC)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        explorer = compiled_explorer(Path(folder))
        for number, mutant in enumerate(mutants(SPEC), start=1):
            outcome = judge.judge(mutant)
            row = {"mutant": str(mutant), "verdict": outcome.verdict, "killed_by": list(outcome.killers[:3])}
            for instance in instances if outcome.verdict == "killed" else ():
                found = explorer.Explorer(instance.population).explore(
                    constants=instance.constants | {"MUTANT": number}, max_states=MOST_STATES, threads=1
                )
                if found.violated:
                    row |= {"violated": found.violated, "events": len(found.trace)}
                    break
            rows.append(row)
    killed = [r for r in rows if r["verdict"] == "killed"]
    traced = [r for r in killed if "violated" in r]
    result = {
        "spec": SPEC.digest(), "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "mutants": len(rows), "killed": len(killed), "with_a_reachable_trace": len(traced),
        "longest_trace": max(int(str(r["events"])) for r in traced), "seconds": round(time.perf_counter() - start),
        "rows": rows,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print({k: v for k, v in result.items() if k != "rows"})


if __name__ == "__main__":
    main()
