"""Measures what the guards of the release build cost: the scheduler with and without them, in turns.

    make bench-guards            (about 5 minutes; ARGS="--rounds 3" for a first look)

Copies of the scheduler are built with the project's own CMakeLists in build/bench-guards: as it is, without the line of
every guard ("unguarded"), without those of them that only check indices ("unindexed"), and without the branch that asks
whether a trace is recorded ("untraced"). The copy as it is runs in two processes, so that their difference shows what
the method cannot tell apart. A step is plan + land of 256 requests that decode. Writes results/<name>.json: every
round's medians, ratios, machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from record import write

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILDS = ROOT / "build" / "bench-guards"
BATCH = 256
CONTEXTS = (1_000, 50_000)
STEPS = 25
"""Steps that one build makes before it is the next one's turn."""
TURNS = 24
"""Turns of each build in a round."""

INDEX = re.compile(r"^  if \(.*\) return Guard::bad_index;\n", re.MULTILINE)
GUARD = re.compile(r"^  if \(.*\) return Guard::\w+;\n", re.MULTILINE)
TRACE = re.compile(r"^    if \(trace_ != nullptr\).*;\n", re.MULTILINE)


def build(name: str, removed: re.Pattern[str] | None) -> tuple[Path, int]:
    """The extension module without the lines of the machine that match, and how many those are."""
    folder = BUILDS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "CMakeLists.txt", folder)
    shutil.copytree(ROOT / "scheduler", folder / "scheduler", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    lines = 0
    if removed is not None:
        for machine in (folder / "scheduler/generated").iterdir():
            text, found = removed.subn("", machine.read_text())
            machine.write_text(text)
            lines += found
        if lines == 0:
            raise SystemExit(f"{name}: no line of the machine matches {removed.pattern}")
    pybind = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "cmake"
    # Without guards some parameters are unused; nothing else about the build differs.
    options = [f"-Dpybind11_DIR={pybind}", f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_CXX_FLAGS=-w"]
    subprocess.run([cmake, "-S", folder, "-B", folder / "build", *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", folder / "build", "--target", "_core"], check=True, stdout=subprocess.DEVNULL)
    return next((folder / "build").glob("_core*.so")), lines


class Worker:
    """A process that drives one build, so that the builds do not share anything."""

    def __init__(self, module: Path, context: int, steps: int) -> None:
        command = [sys.executable, str(HERE / "drive.py"), str(module), str(BATCH), str(context), str(steps)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdin is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        assert self.output.readline() == "ready\n", "the driver did not start"

    def run(self, steps: int) -> list[int]:
        """Nanoseconds of each of the next steps."""
        print(steps, file=self.input, flush=True)
        return [int(x) for x in self.output.readline().split()]

    def close(self) -> None:
        self.input.close()
        self.process.wait()


def measure(modules: dict[str, Path], context: int, rounds: int) -> list[dict[str, float]]:
    """For each round the median step of each build, microseconds."""
    workers = {name: Worker(module, context, (rounds + 1) * TURNS * STEPS) for name, module in modules.items()}
    names = list(workers)
    result = []
    for number in range(rounds + 1):
        times: dict[str, list[int]] = {name: [] for name in names}
        for turn in range(TURNS):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                times[name] += workers[name].run(STEPS)
        if number > 0:  # the first round warms up
            result.append({name: statistics.median(x) / 1000 for name, x in times.items()})
    for worker in workers.values():
        worker.close()
    return result


def main() -> None:
    """Build, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default="latest", help="name of the file in results/")
    options = parser.parse_args()
    guarded, _ = build("guarded", None)
    unguarded, guards = build("unguarded", GUARD)
    unindexed, _ = build("unindexed", INDEX)
    untraced, _ = build("untraced", TRACE)
    modules = {"guarded": guarded, "unguarded": unguarded, "unindexed": unindexed, "untraced": untraced}
    modules["guarded again"] = guarded
    document: dict[str, object] = {
        "batch": BATCH, "page": 64, "rounds": options.rounds, "steps_per_round": TURNS * STEPS,
        "guard_lines_removed": guards,
    }  # fmt: skip
    print(f"{'context':>8} {'build':14} {'step, us':>9} {'guarded / this':>15}   over the rounds")
    for context in CONTEXTS:
        rounds = measure(modules, context, options.rounds)
        ratios = {name: sorted(r["guarded"] / r[name] for r in rounds) for name in modules if name != "guarded"}
        medians = {name: statistics.median(r[name] for r in rounds) for name in modules}
        document[f"context {context}"] = {
            "median_us": medians,
            "guarded_over": {name: statistics.median(x) for name, x in ratios.items()},
            "raw_us": rounds,
        }
        for name, median in medians.items():
            spread = ratios.get(name, [1.0])
            print(
                f"{context:8} {name:14} {median:9.2f} {statistics.median(spread):15.4f}   "
                f"{spread[0]:.4f} to {spread[-1]:.4f}"
            )
    write(HERE / "results" / f"{options.name}.json", document)


if __name__ == "__main__":
    main()
