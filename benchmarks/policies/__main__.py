"""Compares what to keep in the prefix cache, and what a host tier adds, on generated and public workloads.

    TOKENSPEED_TRACES=FOLDER make bench-policies       (about 3 minutes; without the folder only generated workloads)

The compiled scheduler decides, simulated devices (4 x B200 with the shape of Kimi K2, a roofline) take the time.
Pools are made small enough that pages are evicted all the time. Writes results/latest.json and prints the tables.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from record import write

from tokenspeed.scheduler import PageView, Policy
from tokenspeed.simulator.cost.roofline import prefill_figures, roofline
from tokenspeed.simulator.policies import PolicyChoice
from tokenspeed.simulator.study.metrics import call_times, measure
from tokenspeed.simulator.study.settings import StudySettings, load_workload, place_model
from tokenspeed.simulator.world.cluster import Cluster
from tokenspeed.simulator.world.simulation import simulate

HERE = Path(__file__).resolve().parent


class Matched(Policy):
    """Pages that were found before are kept for another pool of pages."""

    def retention(self, page: PageView) -> int:
        return 2 if page.uses > 0 else 0


class Graded(Policy):
    """The more often a page was found, the longer it is kept."""

    def retention(self, page: PageView) -> int:
        return min(page.uses, 3)


class Twice(Policy):
    """Pages that were found twice are kept longest (a queue for those found once, as in 2Q)."""

    def retention(self, page: PageView) -> int:
        return 3 if page.uses > 1 else min(page.uses, 1)


class Heads(Policy):
    """The first 16k tokens of every text are kept."""

    def retention(self, page: PageView) -> int:
        return 2 if page.position < 16_384 else 0


POLICIES: dict[str, PolicyChoice] = {
    "lru": "lru", "matched": Matched, "graded": Graded, "twice": Twice, "heads": Heads, "default": "default",
}  # fmt: skip
WORKLOADS = {
    "swe-agent, 4,000 blocks": ("swe-agent", 4_000, None, None),
    "swe-agent, 5,000 blocks": ("swe-agent", 5_000, None, None),
    "claude-code, 12,000 blocks": ("claude-code", 12_000, 40, 12),
    "Claude Code trace, 12,000 blocks": ("claude_code_500_sessions.tar.xz", 12_000, 40, 10),
    "Mooncake conversation, 30,000 blocks": ("mooncake_conversation.jsonl.gz", 30_000, 3_000, None),
    "Mooncake synthetic, 30,000 blocks": ("mooncake_synthetic.jsonl.gz", 30_000, 2_000, None),
}
SMALL = ("swe-agent, 4,000 blocks", "swe-agent, 5,000 blocks")
"""Workloads on which the policies in Python run too: they are asked for every page that is let go."""
HOST_GIB = (0, 64, 256, 1024)


def settings_of(name: str) -> StudySettings | None:
    """The study of a workload, or None if its trace is not here."""
    workload, blocks, limit, concurrency = WORKLOADS[name]
    if "." in workload:
        folder = os.environ.get("TOKENSPEED_TRACES")
        if folder is None:
            return None
        workload = str(Path(folder) / workload)
    return StudySettings(workload=workload, num_blocks=blocks, limit=limit, concurrency=concurrency)


def main() -> None:
    """Run all, print and write."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in WORKLOADS:
        settings = settings_of(name)
        if settings is None:
            print(f"{name}: TOKENSPEED_TRACES is not set, left out")
            continue
        workload, placed = load_workload(settings), place_model(settings)
        cost = roofline(placed)
        assert settings.num_blocks is not None
        base = Cluster(
            1, cost, settings.num_blocks, 256, 8192, 1, host_copy_tokens_per_s=placed.host_tokens_per_s,
            prefill=prefill_figures(cost, 8192),
        )  # fmt: skip
        chosen = {policy: choice for policy, choice in POLICIES.items() if isinstance(choice, str) or name in SMALL}
        clusters = {policy: replace(base, policy=choice) for policy, choice in chosen.items()}
        for gib in HOST_GIB[1:]:
            clusters[f"default, {gib} GiB host"] = replace(base, num_host_blocks=placed.host_blocks(gib, 64))
        print(f"\n{name}\n{'policy':26} {'hits':>7} {'of host':>8} {'TTFT mean':>10} {'p99':>9} {'TPOT':>7} {'s':>8}")
        for policy, cluster in clusters.items():
            recording = simulate(workload, cluster)
            metrics = measure(workload, recording, call_times(workload, recording), 1, 4)
            row = {
                "hit_rate": metrics.hit_tokens / metrics.prompt_tokens,
                "host_hit_rate": metrics.host_hit_tokens / metrics.prompt_tokens,
                "ttft_mean_ms": metrics.ttft_ms.mean,
                "ttft_p99_ms": metrics.ttft_ms.p99,
                "tpot_mean_ms": metrics.tpot_ms.mean,
                "duration_s": metrics.duration_s,
                "retractions": metrics.retractions,
            }
            results.setdefault(name, {})[policy] = {key: float(f"{value:.5g}") for key, value in row.items()}
            print(
                f"{policy:26} {row['hit_rate']:7.1%} {row['host_hit_rate']:8.1%} {row['ttft_mean_ms']:10,.0f} "
                f"{row['ttft_p99_ms']:9,.0f} {row['tpot_mean_ms']:7.1f} {row['duration_s']:8,.0f}",
                flush=True,
            )
    write(HERE / "results" / "latest.json", {"workloads": results})


if __name__ == "__main__":
    main()
