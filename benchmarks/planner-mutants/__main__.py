"""Plants small faults in the hand-written scheduler, one at a time, and asks whether a test notices.

    make planner-mutants                       (300 mutants; hours on a busy machine)
    make planner-mutants ARGS="--count 20"

Every mutant is one changed line of scheduler/core. Its file is compiled (-O0, with a precompiled header), linked with
the objects of the others to a module of its own, and the tests of `TESTS` run against it until one fails. Mutants are
drawn with a seed from all that the grammar in operators.py gives. Results go to results/latest.json as they come, so
that a run that was stopped goes on. What survives is explained in results/survivors.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from operators import Mutant, mutants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "planner-mutants"
RESULTS = HERE / "results" / "latest.json"
TESTS = (
    "test_survivors.py", "test_drafts.py", "test_world.py", "test_contract.py", "test_prefix_tree.py", "test_policy.py",
    "test_host_tier.py", "test_reference_failures.py",
)  # fmt: skip
"""In this order, the most likely to notice first."""
SECONDS = 240
"""A mutant whose tests take longer hangs, and is noticed."""
FLAGS = ("-std=c++20", "-O0", "-fPIC", "-fvisibility=hidden", "-w")


def run(command: Sequence[str | Path], seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """A command whose output is only of interest if it fails."""
    environment = {**os.environ, "TOKENSPEED_WORLDS": "10", "PYTHONHASHSEED": "0"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=seconds
    )


def prepare() -> list[Path]:
    """Objects of the scheduler as it is, and a precompiled header. Returns the objects."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "cmake"
    pybind = run([sys.executable, "-m", "pybind11", "--cmakedir"]).stdout.strip()
    options = [f"-Dpybind11_DIR={pybind}", f"-DPython_EXECUTABLE={sys.executable}"]
    options += ["-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS_DEBUG={FLAGS[1]}"]
    subprocess.run([cmake, "-S", ROOT, "-B", BUILD / "cmake", *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", BUILD / "cmake", "--target", "_core", "-j2"], check=True)
    header = BUILD / "header" / "scheduler/core/scheduler.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "scheduler/core/scheduler.h", header)
    command = ["c++", *FLAGS, f"-I{ROOT}", "-x", "c++-header", str(header), "-o", f"{header}.gch"]
    subprocess.run(command, check=True)
    modules = {"_core": ("python", "verification"), "tokenspeed_scheduler": ("core", "generated")}
    return [
        BUILD / f"cmake/CMakeFiles/{target}.dir" / f"{path.relative_to(ROOT)}.o"
        for target, rooms in modules.items()
        for room in rooms
        for path in sorted((ROOT / "scheduler" / room).rglob("*.cpp"))
    ]


def judge(mutant: Mutant, objects: list[Path], folder: Path) -> tuple[str, str]:
    """(verdict, by which test): "killed", "survives", "does not compile" or "hangs"."""
    folder.mkdir(parents=True, exist_ok=True)
    source, module = folder / "changed.cpp", folder / "_core.so"
    source.write_text(mutant.text(ROOT))
    includes = [f"-I{BUILD / 'header'}", f"-I{ROOT}"]
    if run(["c++", *FLAGS, *includes, "-c", source, "-o", folder / "changed.o"]).returncode != 0:
        return "does not compile", ""
    others = [path for path in objects if not path.as_posix().endswith(f"{mutant.file}.o")]
    assert len(others) == len(objects) - 1, mutant.file
    link([*others, folder / "changed.o"], module)
    return ask(module)


def link(objects: Sequence[Path], module: Path) -> None:
    """An extension module of these objects."""
    module.parent.mkdir(parents=True, exist_ok=True)
    linked = run(["c++", "-shared", *objects, "-o", module])
    assert linked.returncode == 0, linked.stderr


def ask(module: Path) -> tuple[str, str]:
    """What the tests say of a module, and which of them."""
    tests = [ROOT / "tests/scheduler" / test for test in TESTS]
    try:
        done = run([sys.executable, HERE / "judge.py", module, *tests], SECONDS)
    except subprocess.TimeoutExpired:
        return "hangs", ""
    if done.returncode == 0:
        return "survives", ""
    failed = [line for line in done.stdout.split("\n") if line.startswith(("FAILED", "ERROR"))]
    return "killed", failed[0].split(" - ")[0].split("/")[-1] if failed else f"exit status {done.returncode}"


def digest() -> str:
    """SHA-256 of the sources: results of others are not mixed with these."""
    text = hashlib.sha256()
    for path in sorted((ROOT / "scheduler/core").rglob("*.[ch]*")):
        text.update(path.read_bytes())
    return text.hexdigest()


def main() -> None:
    """Judge, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="mutants in all, those judged before included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    every = mutants(ROOT)
    document = {"sources": digest(), "seed": options.seed, "possible": len(every), "tests": list(TESTS), "mutants": {}}
    if RESULTS.exists():
        before = json.loads(RESULTS.read_text())
        if before["sources"] == document["sources"] and before["seed"] == options.seed:
            document = before
    judged: dict[str, dict[str, str]] = document["mutants"]
    order = random.Random(options.seed).sample(every, len(every))[: options.count]
    todo = [m for m in order if str(m.number) not in judged]
    objects = prepare()
    link(objects, BUILD / "unchanged" / "_core.so")
    verdict, by = ask(BUILD / "unchanged" / "_core.so")
    if verdict != "survives":
        raise SystemExit(f"the tests do not pass without a fault, so they say nothing: {verdict} {by}")

    def one(numbered: tuple[int, Mutant]) -> None:
        i, mutant = numbered
        verdict, by = judge(mutant, objects, BUILD / f"job{i}")
        shutil.rmtree(BUILD / f"job{i}")
        where = f"{mutant.file}:{mutant.line}"
        judged[str(mutant.number)] = {
            "operator": mutant.operator, "where": where, "before": mutant.before.strip(),
            "after": mutant.after.strip(), "verdict": verdict, "by": by,
        }  # fmt: skip
        print(f"{verdict:16} {where} [{mutant.operator}] {mutant.after.strip() or 'left out'}  {by}", flush=True)
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, enumerate(todo)))
    counts = Counter(m["verdict"] for m in judged.values())
    alive, dead = counts["survives"], counts["killed"] + counts["hangs"]
    print(f"{dead} of {dead + alive} noticed ({dead / max(1, dead + alive):.1%}); {dict(counts)}")


if __name__ == "__main__":
    main()
