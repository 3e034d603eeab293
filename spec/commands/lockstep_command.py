"""`tokenspeed verify lockstep`: the compiled scheduler against the specification, state by state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..conform.lockstep import LockStep, LockStepReport
from ..language.labels import guard_labels
from ..search.explore import available_cores
from ..search.instances import LOCK_STEP, Instance
from ..system import SPEC
from .console import make_console
from .verify_command import INCOMPLETE

SHOWN = 5
"""How many disagreements are printed for each instance."""


def run_lockstep(
    machine: object,
    states: int,
    json_output: bool = False,
    instances: Sequence[Instance] = LOCK_STEP,
    thorough: bool = False,
) -> int:
    """Compare `states` states of each instance (all, where there are fewer). Returns 0 if they agree, 1 if not, 3 if
    some transition was accepted in no state compared.

    `machine`: of the scheduler that is held to the specification, and `thorough`: as `LockStep` takes them.
    """
    reports = [LockStep(SPEC, instance, machine, thorough).run(states, available_cores()) for instance in instances]
    agrees = all(r.agrees for r in reports)
    if json_output:
        print(json.dumps(as_json(reports), indent=2))
    else:
        _print(reports, make_console())
    if not agrees:
        return 1
    return INCOMPLETE if untaken(reports) else 0


def as_json(reports: Sequence[LockStepReport]) -> dict[str, Any]:
    """The reports as JSON values, with what none of them saw."""
    return {
        "spec": SPEC.digest(), "cores": available_cores(), "agrees": all(r.agrees for r in reports),
        "states": sum(r.states for r in reports), "untaken": untaken(reports),
        "never_true": never(reports, "true"), "never_false": never(reports, "false"),
        "never_first_to_refuse": never(reports, "refusing"),
        "instances": [
            {
                "instance": str(r.instance), "population": r.instance.population, "constants": r.instance.constants,
                "states": r.states, "complete": r.complete, "depth": r.depth, "accepted": r.accepted,
                "refused": r.refused, "implied": r.implied, "judged": r.judged, "violated": r.violated,
                "seconds": round(r.seconds, 2),
                "cpu_seconds": round(r.cpu_seconds, 2), "states_per_second": round(r.states / r.seconds),
                "states_per_cpu_second": round(r.states / r.cpu_seconds), "sampled_with_interpreter": r.sampled,
                "disagreements": [str(d) for d in r.disagreements],
            }
            for r in reports
        ],
    }  # fmt: skip


def untaken(reports: Sequence[LockStepReport]) -> list[str]:
    """Transitions that were accepted in no state that was compared."""
    return [name for name in SPEC.transitions if not any(name in r.taken for r in reports)]


def never(reports: Sequence[LockStepReport], what: str) -> list[str]:
    """Guards that no report has: `what` is "true", "false" or "refusing".

    A guard that is never the first false one may still be seen false: one before it is then false too. Those over
    ghosts cannot refuse.
    """
    seen: set[str] = set().union(*(getattr(r, what) for r in reports))
    return [label for label in guard_labels(SPEC) if label not in seen]


def _print(reports: Sequence[LockStepReport], console: Console) -> None:
    title = "The compiled scheduler, held to the specification state by state"
    table = Table(title=title, title_justify="left")
    table.add_column("instance")
    for column in ("states", "accepted", "refused", "implied", "states/s", "interpreter", "divergences"):
        table.add_column(column, justify="right")
    for r in reports:
        rate = f"{r.states / r.seconds:,.0f}"
        wrong = f"[red]{len(r.disagreements)}[/red]" if r.disagreements else "0"
        name = f"{r.instance}\n[dim]{'complete' if r.complete else 'the nearest to the start'}, depth {r.depth}[/dim]"
        table.add_row(
            name, f"{r.states:,}", f"{r.accepted:,}", f"{r.refused:,}", f"{r.implied:,}", rate, f"{r.sampled}", wrong
        )
    console.print(table)
    for r in reports:
        if r.violated:
            console.print(f"[red]VIOLATED[/red] {r.violated} in an instance of {r.instance}")
        for d in r.disagreements[:SHOWN]:
            console.print(f"[red]DIVERGES[/red] {d}")
    console.print(
        f"{sum(r.states for r in reports):,} states, "
        f"{sum(r.accepted for r in reports):,} transitions with equal results, "
        f"{sum(r.refused for r in reports):,} refusals for the same reason; {available_cores()} cores."
    )
    if implied := sum(r.implied for r in reports):
        console.print(
            f"{implied:,} refusals were not asked for again: their guards read the same values in a state before. "
            "--thorough asks for all."
        )
    taken = len(SPEC.transitions) - len(untaken(reports))
    guards = guard_labels(SPEC)
    one_way = {"true": never(reports, "true"), "false": never(reports, "false")}
    both = len(guards) - len(set().union(*one_way.values()))
    console.print(
        f"{taken} of {len(SPEC.transitions)} transitions were accepted somewhere. {both} of {len(guards)} guards were "
        f"seen true and seen false, {len(guards) - len(never(reports, 'refusing'))} to be the first that refuses."
    )
    if missing := untaken(reports):
        console.print(f"[yellow]Never accepted, so not compared[/yellow]: {', '.join(missing)}. Compare more --states.")
    for way, labels in one_way.items():
        if labels:
            console.print(f"Never seen {way}: {', '.join(labels)}.")
    if not all(r.agrees for r in reports):
        console.print("[red]Not the same.[/red]")
    elif missing:
        console.print("[yellow]No divergence in what was compared.[/yellow]")
    else:
        console.print("[green]No divergence.[/green]")


__all__ = ["as_json", "never", "run_lockstep"]
