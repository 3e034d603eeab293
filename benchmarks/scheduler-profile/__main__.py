"""Where the scheduler's instructions go: counts by function, from callgrind (`apt-get install valgrind`).

    make bench-scheduler-profile            (a minute; instruction counts do not depend on who else uses the machine)

Compiles the scheduler as it ships (-O3, with line tables) with drive.cpp, and writes results/profile.txt: for each
case the instructions of one measured call and the functions that spend them, without those that they call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "bench-profile"
CASES = {
    "decode step, batch 1 x 50k": ("decode", 640, ["decode", "1", "50000", "640"]),
    "decode step, batch 32 x 50k": ("decode", 320, ["decode", "32", "50000", "320"]),
    "decode step, batch 256 x 50k": ("decode", 128, ["decode", "256", "50000", "128"]),
    "submit + first plan, next turn of a 50k session": ("turn", 20, ["turn", "50000", "20"]),
}
"""Name -> namespace of the measured function, its calls, arguments of drive.cpp. Decode steps cross page borders."""
FUNCTIONS = 14
"""Lines for each case."""


def build() -> Path:
    """The profiled program: the scheduler's library as it ships, with line tables."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "cmake"
    pybind = [sys.executable, "-m", "pybind11", "--cmakedir"]
    folder = subprocess.run(pybind, check=True, capture_output=True, text=True).stdout.strip()
    options = [f"-Dpybind11_DIR={folder}", f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_CXX_FLAGS=-g1"]
    subprocess.run([cmake, "-S", ROOT, "-B", BUILD, *options], check=True, stdout=subprocess.DEVNULL)
    command = [cmake, "--build", BUILD, "--target", "scheduler_profile", "-j2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return BUILD / "scheduler_profile"


def profile(program: Path, namespace: str, calls: int, arguments: list[str]) -> str:
    """A table of the instructions of one measured call."""
    data = BUILD / "callgrind.out"
    toggle = f"--toggle-collect=(anonymous namespace)::{namespace}::measured*"
    run = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={data}", toggle, str(program), *arguments]
    subprocess.run(run, check=True, capture_output=True)
    annotated = subprocess.run(
        ["callgrind_annotate", "--auto=no", "--threshold=100", str(data)], check=True, capture_output=True, text=True
    ).stdout
    total = 0
    spent: dict[str, int] = {}
    for line in annotated.splitlines():
        found = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+(.*)", line)
        if not found:
            continue
        count = int(found[1].replace(",", ""))
        if found[2].startswith("PROGRAM TOTALS"):
            total = count
            continue
        name = re.sub(r" \[.*\]$", "", found[2].split(":", 1)[-1])
        name = re.sub(r"\(.*", "", name.replace("(anonymous namespace)::", "")).replace("tokenspeed::", "")
        spent[name] = spent.get(name, 0) + count
    lines = [f"{total / calls:12,.0f}          all"]
    for name, count in sorted(spent.items(), key=lambda x: -x[1])[:FUNCTIONS]:
        lines.append(f"{count / calls:12,.0f}  {count / total:6.1%}  {name}")
    return "\n".join(lines)


def main() -> None:
    """Build, run and write."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is needed: apt-get install valgrind")
    program = build()
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    text = f"Instructions of one call, counted by callgrind; {compiler}, -O3.\n"
    for case, (namespace, calls, arguments) in CASES.items():
        text += f"\n{case}\n{profile(program, namespace, calls, arguments)}\n"
    (HERE / "results" / "profile.txt").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
