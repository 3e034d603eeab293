"""Measures this project's scheduler against those of LightSeek's TokenSpeed and of vLLM on the same machine, in turns.

    make bench-scheduler            (5 rounds, about 15 minutes; ARGS="--rounds 1 --quick" for a first look)

The peers get virtual environments of their own below build/ (vLLM's takes 3.5 GB; `--without vllm` leaves it out).
Writes results/<name>.json (raw figures of every round, medians, targets, machine, versions) and results/<name>.svg, and
prints tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from peers import LIGHTSEEK, PEERS  # noqa: E402
from record import write  # noqa: E402
from targets import Figures, leads, targets  # noqa: E402


def measure(python: Path | str, script: str, quick: bool) -> Figures:
    """One round of one scheduler."""
    command = [str(python), str(HERE / script), *(["--quick"] if quick else [])]
    quiet = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def medians(rounds: list[Figures]) -> Figures:
    """Median over the rounds of each figure."""
    return {
        case: {name: statistics.median(r[case][name] for r in rounds) for name in figures}
        for case, figures in rounds[0].items()
    }


def print_figures(median: dict[str, Figures]) -> None:
    """Ours, and how many times as long the others take."""
    others = [name for name in median if name != "ours"]
    print(f"\n{'case':32} {'figure':14} {'ours':>10}" + "".join(f" {name:>12} {'ratio':>8}" for name in others))
    for case, figures in median["ours"].items():
        for figure, value in figures.items():
            if figure == "tokens":
                continue
            line = f"{case:32} {figure:14} {value:10.2f}"
            for name in others:
                theirs = median[name].get(case, {}).get(figure)
                line += f" {theirs:12.2f} {theirs / value:8.1f}" if theirs is not None else f" {'':>21}"
            print(line)


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer contexts and waiting requests")
    parser.add_argument("--without", choices=[p.name for p in PEERS], action="append", default=[], help="leave one out")
    parser.add_argument("--name", default="latest", help="name of the files in results/")
    options = parser.parse_args()
    peers = [p for p in PEERS if p.name not in options.without]
    who = {"ours": (Path(sys.executable), "drive_tokenspeed.py")} | {p.name: (p.python(), p.script) for p in peers}
    raw: dict[str, list[Figures]] = {name: [] for name in who}
    load = []
    for number in range(options.rounds):
        load.append(os.getloadavg()[0])
        names = list(who)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            print(f"round {number + 1} of {options.rounds}: {name}", flush=True)
            raw[name].append(measure(*who[name], options.quick))
    median = {name: medians(rounds) for name, rounds in raw.items()}
    print_figures(median)
    judged = targets(median["ours"])
    print(f"\n{'target':62} {'measured':>9} {'at most':>9}")
    for target, (value, most) in judged.items():
        print(f"{target:62} {value:9.3f} {most:9.2f} {'' if value <= most else 'MISSED'}")
    ahead = leads(median["ours"], median["lightseek"]) if "lightseek" in median else {}
    print(f"\n{'target':62} {'measured':>9} {'at least':>9}")
    for target, (value, least) in ahead.items():
        print(f"{target:62} {value:9.3f} {least:9.2f} {'' if value >= least else 'MISSED'}")
    path = HERE / "results" / f"{options.name}.json"
    path.parent.mkdir(exist_ok=True)
    document = {
        "peers": {p.name: p.requirement for p in peers}, "page": 64, "rounds": options.rounds,
        "load before each round": load, "targets": {t: {"measured": v, "at most": m} for t, (v, m) in judged.items()}
        | {t: {"measured": v, "at least": m} for t, (v, m) in ahead.items()},
        "median": median, "raw": raw,
    }  # fmt: skip
    write(path, document)
    subprocess.run([LIGHTSEEK.python(), HERE / "plot.py", path, path.with_suffix(".svg")], check=True)


if __name__ == "__main__":
    main()
