"""Measures how long `tokenspeed verify` takes, with z3 and with cvc5.

    make bench-verify            (under a minute on a quiet 2-core machine; ARGS="--rounds 1" for a first look)

cvc5 must be installed (`make test` does it, or `.venv/bin/pip install cvc5`). The command is run as users run it,
several times with z3 and once with cvc5. Writes results/<name>.json: machine, load before and after the runs, hash of
the specification, seconds of each run (what the command says of itself, and with start-up), number of obligations,
and the ten slowest of each solver.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import write

HERE = Path(__file__).resolve().parent
SLOWEST = 10


def run(solver: str) -> tuple[dict[str, Any], float]:
    """The report of one run and its seconds with start-up. Raises SystemExit if not everything is proved."""
    command = [sys.executable, "-m", "tokenspeed", "verify", "--json", "--solver", solver]
    start = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if answer.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with status {answer.returncode}: {answer.stderr.strip()}")
    return json.loads(answer.stdout), seconds


def slowest(report: dict[str, Any]) -> list[dict[str, object]]:
    """The obligations that took longest."""
    found = [
        {"property": p["name"], "subject": o["subject"], "seconds": o["seconds"]}
        for p in report["properties"]
        for o in p["obligations"]
    ]
    return sorted(found, key=lambda o: -float(o["seconds"]))[:SLOWEST]


def version(package: str) -> str:
    """Of an installed solver. Raises SystemExit if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"{package} is not installed: .venv/bin/pip install {package}") from None


def measure(solver: str, version: str, rounds: int) -> tuple[str, dict[str, object]]:
    """The specification's hash and the figures of one solver."""
    runs = [run(solver) for _ in range(rounds)]
    report = runs[-1][0]
    seconds = [r["seconds"] for r, _ in runs]
    return report["spec"], {
        "version": version,
        "obligations": sum(len(p["obligations"]) for p in report["properties"]),
        "seconds": statistics.median(seconds),
        "raw_seconds": seconds,
        "raw_seconds_with_start_up": [round(s, 3) for _, s in runs],
        "small_instances": report["exploration"],
        "slowest": slowest(report),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs with z3")
    parser.add_argument("--name", default="latest", help="name of the result file")
    arguments = parser.parse_args()
    versions = {solver: version(package) for solver, package in (("z3", "z3-solver"), ("cvc5", "cvc5"))}
    load = os.getloadavg()
    spec, z3 = measure("z3", versions["z3"], arguments.rounds)
    other, cvc5 = measure("cvc5", versions["cvc5"], 1)
    if spec != other:
        raise SystemExit("the specification was edited between the runs; run again")
    result = {
        "z3": z3,
        "cvc5": cvc5,
    }
    for solver, figures in (("z3", z3), ("cvc5", cvc5)):
        print(f"{solver} {figures['version']}: {figures['obligations']} obligations, {figures['raw_seconds']} s")
    print(f"load before: {load[0]:.2f} (1 minute); a busy machine makes the figures larger")
    write(HERE / "results" / f"{arguments.name}.json", result)


if __name__ == "__main__":
    main()
