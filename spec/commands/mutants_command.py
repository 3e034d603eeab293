"""`tokenspeed verify mutants`: judges every mutant on all cores and prints the score and the survivors."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..prove.mutants import Mutant, Mutation, Outcome, Score, dropped_clauses, mutants
from ..system import SPEC
from .console import make_console

VERDICTS = ("killed", "equivalent", "lemma only", "survived")

_mutation: list[Mutation] = []


def run_mutants(json_output: bool = False, every: int = 1) -> int:
    """Judge all mutants, or each `every`-th, and the contract without each of its clauses.

    Returns the exit status: 0 if nothing named misses any mutant and every clause is needed, else 1.
    """
    result = judge_all(Console(stderr=True), every)
    console = make_console()
    clauses = dropped_clauses(SPEC)
    if json_output:
        print(json.dumps(as_json(result) | {"clauses": clauses}, indent=2))
    else:
        print_score(result, console)
        print_clauses(clauses, console)
    return 0 if result.share == 1 and all(clauses.values()) else 1


def judge_all(progress: Console, every: int = 1) -> Score:
    """Every mutant of the specification, or each `every`-th, judged by one process for each core."""
    start = time.perf_counter()
    numbers = range(0, len(_all()), every)
    context = multiprocessing.get_context("spawn")  # z3 does not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        verdicts = pool.map(_judge, numbers, chunksize=8)
        shown = track(verdicts, "judging mutants", len(numbers), console=progress, disable=not progress.is_terminal)
        outcomes = [Outcome(_all()[n], *verdict) for n, verdict in zip(numbers, shown, strict=True)]
    return Score(outcomes, time.perf_counter() - start)


def _judge(number: int) -> tuple[str, tuple[str, ...]]:
    if not _mutation:
        _mutation.append(Mutation(SPEC))
    outcome = _mutation[0].judge(_all()[number])
    return outcome.verdict, outcome.killers


_cache: list[list[Mutant]] = []


def _all() -> list[Mutant]:
    if not _cache:
        _cache.append(list(mutants(SPEC)))
    return _cache[0]


def print_score(result: Score, console: Console) -> None:
    """A row for each transition, then the survivors."""
    table = Table(title="Mutants of guards and effects, by transition", title_justify="left")
    table.add_column("transition")
    for verdict in VERDICTS:
        table.add_column(verdict, justify="right")
    for name in SPEC.transitions:
        counts = Counter(o.verdict for o in result.outcomes if o.mutant.transition.name == name)
        table.add_row(name, *[str(counts[verdict] or "") for verdict in VERDICTS])
    console.print(table)
    killers = Counter(o.killers[0] for o in result.outcomes if o.verdict == "killed")
    named = ", ".join(f"{name} ({number})" for name, number in killers.most_common(5))
    console.print(f"Most kills: {named}.")
    for outcome in result.outcomes:
        if outcome.verdict in ("survived", "lemma only"):
            console.print(f"{outcome.verdict}: {outcome.mutant}")
    counts = Counter(o.verdict for o in result.outcomes)
    parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    console.print(f"{len(result.outcomes)} mutants: {parts}. Score {result.share:.1%} in {result.seconds:.0f} s.")


def print_clauses(clauses: dict[str, tuple[str, ...]], console: Console) -> None:
    """What breaks without each clause of the contract of policies."""
    table = Table(title="The contract without one clause", title_justify="left")
    table.add_column("clause")
    table.add_column("breaks")
    for name, broken in clauses.items():
        table.add_row(name, ", ".join(broken) or "[red]nothing: it is not needed[/red]")
    console.print(table)


def as_json(result: Score) -> dict[str, object]:
    """The matrix as JSON values."""
    return {
        "spec": SPEC.digest(),
        "score": round(result.share, 4),
        "mutants": [
            {"mutant": str(o.mutant), "verdict": o.verdict, "killed_by": list(o.killers)} for o in result.outcomes
        ],
    }
