"""Compares the compiled scheduler with the specification in tens of millions of states, and keeps what was found.

    make bench-lockstep          (about 5 minutes on a quiet machine, 4 GB; ARGS="--states 1000000" for a first look)

Runs `tokenspeed verify lockstep` in each of its three ways: as it is, through Python, and thorough (every refusal in
every state, so with fewer states). Writes results/{latest,through_python,thorough}.json: what the command reports, and
the command, the machine, and its load when the run began and ended. With other jobs on the machine,
look at the states per second of processor time; `load` says whether there were any.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import write

HERE = Path(__file__).resolve().parent
RUNS: dict[str, list[str]] = {"latest": [], "through_python": ["--through-python"], "thorough": ["--thorough"]}
THOROUGH_SHARE = 10
"""The thorough way compares this many times fewer states of an instance."""


def arguments_of(way: list[str], states: int) -> list[str]:
    """What `tokenspeed` is called with."""
    return ["verify", "lockstep", "--json", "--states", str(states), *way]


def compare(way: list[str], states: int) -> tuple[dict[str, Any], bool]:
    """One run: what it printed, and whether everything agreed."""
    arguments = arguments_of(way, states)
    done = subprocess.run([sys.executable, "-m", "tokenspeed", *arguments], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"tokenspeed {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout), done.returncode == 0


def main() -> None:
    """Run what is asked for; exits with 1 if something was answered in two ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=10_000_000, help="of each instance (default: 10000000)")
    parser.add_argument("--only", choices=RUNS, help="one way instead of all three")
    chosen = parser.parse_args()
    agreed = True
    for name in [chosen.only] if chosen.only else RUNS:
        states = chosen.states // (THOROUGH_SHARE if name == "thorough" else 1)
        found, agrees = compare(RUNS[name], states)
        agreed = agreed and agrees
        command = f"tokenspeed {' '.join(arguments_of(RUNS[name], states))}"
        write(HERE / "results" / f"{name}.json", found, command)
        print(f"{name}: {found['states']:,} states, {'no divergence' if agrees else 'NOT THE SAME'}")
        for i in found["instances"]:
            print(f"  {i['states_per_second'] / 1e6:.2f} million states/s  {i['instance']}", flush=True)
    raise SystemExit(0 if agreed else 1)


if __name__ == "__main__":
    main()
