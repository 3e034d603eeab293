"""Measures this project's scheduler against PyPI's `tokenspeed-scheduler` on the same machine, in turns.

    make bench-scheduler            (5 rounds, about 10 minutes; ARGS="--rounds 1 --quick" for a first look)

The peer gets a virtual environment of its own. Writes results/<name>.json (raw figures of every round, medians, ratios,
machine) and results/<name>.svg, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEER = "tokenspeed-scheduler==0.1.42"
PEER_ENVIRONMENT = HERE.parents[1] / "build" / "bench-lightseek"

Figures = dict[str, dict[str, float]]


def peer_python() -> Path:
    """The interpreter of the peer's environment, made on the first call."""
    python = PEER_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"installing {PEER} into {PEER_ENVIRONMENT.relative_to(HERE.parents[1])}")
        venv.create(PEER_ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER, "numpy<2.4", "matplotlib>=3.9,<4"], check=True)
    return python


def measure(python: Path | str, script: str, quick: bool) -> Figures:
    """One round of one scheduler."""
    command = [str(python), str(HERE / script), *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def medians(rounds: list[Figures]) -> Figures:
    """Median over the rounds of each figure."""
    return {
        case: {name: statistics.median(r[case][name] for r in rounds) for name in figures}
        for case, figures in rounds[0].items()
    }


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
    return {"cpu": cpu, "cores": os.cpu_count() or 0, "python": platform.python_version(), "system": platform.system()}


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer contexts and waiting requests")
    parser.add_argument("--name", default="latest", help="name of the files in results/")
    options = parser.parse_args()
    ours: list[Figures] = []
    peers: list[Figures] = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        ours.append(measure(sys.executable, "drive_tokenspeed.py", options.quick))
        peers.append(measure(peer_python(), "drive_lightseek.py", options.quick))
    mine, theirs = medians(ours), medians(peers)
    print(f"\n{'case':20} {'figure':14} {'ours':>12} {'peer':>12} {'peer / ours':>12}")
    for case, figures in mine.items():
        for name, value in figures.items():
            if name != "tokens":
                other = theirs[case][name]
                print(f"{case:20} {name:14} {value:12.2f} {other:12.2f} {other / value:12.1f}")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    path = results / f"{options.name}.json"
    document = {
        "peer": PEER, "page": 64, "rounds": options.rounds, "machine": machine(), "load": os.getloadavg()[0],
        "median": {"ours": mine, "peer": theirs}, "raw": {"ours": ours, "peer": peers},
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1) + "\n")
    subprocess.run([peer_python(), HERE / "plot.py", path, path.with_suffix(".svg")], check=True)


if __name__ == "__main__":
    main()
