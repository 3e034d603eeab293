"""Plots a result of this benchmark: cost of a step against context and against waiting requests.

Runs in the peer's environment, which has matplotlib.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "tokenspeed"
import matplotlib.pyplot as plt  # noqa: E402


def main(source: str, target: str) -> None:
    """Read the JSON of this benchmark and write an SVG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    document = json.loads(Path(source).read_text())
    median = document["median"]
    colors = {"ours": "#1f6feb", "lightseek": "#d1242f", "vllm": "#8a8a00"}
    for who in median:
        color, label = colors[who], document["peers"].get(who, "this project").replace("==", " ")
        for batch, marker in ((1, "o"), (32, "s"), (256, "^")):
            points = sorted(
                (int(m[1]), figures["median_us"])
                for case, figures in median[who].items()
                if (m := re.fullmatch(rf"decode {batch} x (\d+)", case))
            )
            left.plot(*zip(*points, strict=True), color=color, marker=marker, label=f"{label}, batch {batch}")
        points = sorted(
            (int(case.split()[1]), figures["median_us"]) for case, figures in median[who].items() if "waiting" in case
        )
        right.plot(*zip(*points, strict=True), color=color, marker="o", label=label)
    left.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel="plan + read + land (µs)")
    left.set_title("One decode step against context", fontsize=11)
    right.set(xscale="symlog", yscale="log", xlabel="waiting 50k prompts", ylabel="plan + read + land (µs)")
    right.set_title("The same, 16 x 50k and a full pool, against the waiting line", fontsize=11)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
