"""What this project wants of its scheduler, held against the medians of a run."""

from __future__ import annotations

Figures = dict[str, dict[str, float]]


def targets(median: Figures) -> dict[str, tuple[float, float]]:
    """Name -> (measured, at most). Microseconds, or a ratio where the name says so."""
    result = {}
    for batch, most in ((1, 2.0), (32, 12.0), (256, 80.0)):
        short, long = (median[f"decode {batch} x {context}"]["median_us"] for context in (1024, 50_000))
        result[f"decode step, batch {batch}, 1k"] = (short, most)
        result[f"decode step, batch {batch}, 50k"] = (long, most)
        result[f"decode step, batch {batch}: ratio of 50k to 1k"] = (long / short, 1.2)
    turn = median["turn of 50000"]
    result["submit + first plan, 50k, nothing cached"] = (turn["miss_us"], 500.0)
    result["submit + first plan, 50k, next turn of a resident session"] = (turn["hit_us"], 100.0)
    waiting = {int(case.split()[1]): x["median_us"] for case, x in median.items() if case.startswith("waiting ")}
    for count in sorted(waiting)[1:]:
        result[f"step, for each of {count} waiting"] = ((waiting[count] - waiting[0]) / count, 1.0)
    result["agentic loop, for each token"] = (median["agentic loop"]["us_per_token"], 5.0)
    return result


def leads(ours: Figures, peer: Figures) -> dict[str, tuple[float, float]]:
    """Name -> (how many times faster than the peer in the same run, at least), by medians."""
    result = {}
    for batch, least in ((1, 15.0), (32, 90.0), (256, 250.0)):
        for context, at_least in ((1024, 1.0), (50_000, least)):
            case = f"decode {batch} x {context}"
            ratio = peer[case]["median_us"] / ours[case]["median_us"]
            result[f"lead over tokenspeed-scheduler, batch {batch}, context {context:,}"] = (ratio, at_least)
    return result
