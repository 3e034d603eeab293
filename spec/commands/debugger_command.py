"""Prints what the debugger found out, as tables for people."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..claims.groups import title
from ..explain.debugger import Finding
from ..explain.drop import Diagnosis
from ..explain.timeline import Timeline, in_words
from ..explain.timeline_page import write_timeline_page
from ..language.spec import Spec
from ..search.reachable import REBUILD
from ..system import SPEC


def print_findings(findings: list[Finding], console: Console) -> None:
    """One block for each explained failure."""
    for finding in findings:
        console.print()
        print_finding(finding, console)


def print_finding(finding: Finding, console: Console) -> None:
    """Which of the two it is, the false part, the timeline, and what to do next."""
    timeline = finding.timeline
    if timeline is None:
        console.print(
            f"[yellow]UNEXPLAINED[/yellow] {finding.transition}: [bold]{finding.claim}[/bold]. No state with up to "
            f"three individuals of each sort shows the failure, and no search reached one."
        )
        return
    if finding.verdict == "scheduler is wrong":
        console.print("[red]YOUR SCHEDULER IS WRONG[/red]: a violation can be reached from the start.")
        print_violated(timeline, console)
        _print_way(finding, console)
    elif finding.verdict == "stage does not end":
        who = f"after [bold]{finding.transition}[/bold]" if timeline.moments else "in a certain state"
        console.print(f"[red]NOT PROVED THAT IT ENDS[/red]: a stage of liveness does not do what it must {who}.")
        print_violated(timeline, console)
        console.print(f"Before: {escape(_start(timeline))}")
        _print_stage_reached(finding, console)
    else:
        what = f"[bold]{finding.transition}[/bold] breaks a claim" if timeline.moments else "a claim is false"
        console.print(
            f"[yellow]YOUR INVARIANT IS TOO WEAK[/yellow], or the violation is far away: {what} in a state that "
            f"satisfies all invariants, and no search reached such a state."
        )
        print_violated(timeline, console)
        console.print(f"Before: {escape(_start(timeline))}")
        _print_searched(finding, console)
    if timeline.moments:
        console.print(timeline_table(timeline))
    if finding.verdict == "stage does not end":
        console.print(
            "Next: if this may happen, give the stage (or one around it) a rank that gets smaller, or a stage in which "
            "somebody helps, or a clause of the contract that forbids it; if it can never be, state a lemma."
        )
    elif finding.verdict != "scheduler is wrong":
        console.print(
            "Next: find what in the state before can never be, and state it as a lemma; or make the claim weaker; or, "
            "if the state can be reached after all, add a guard."
        )
    if finding.also:
        shown = ", ".join(finding.also[:6]) + (" ..." if len(finding.also) > 6 else "")
        console.print(f"Not proved either: {shown}")


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """What `verify drop` answers."""
    console.print(f"Without the guard [bold]{diagnosis.label}[/bold]: {escape(diagnosis.condition)}\n")
    finding, timeline = diagnosis.finding, diagnosis.timeline
    if diagnosis.verdict == "violated" and finding is not None and timeline is not None:
        print_violated(timeline, console)
        _print_way(finding, console)
        console.print(timeline_table(timeline))
        return
    console.print(diagnosis.explanation)
    for line in diagnosis.details:
        console.print(f"  {line}")
    if finding is not None and timeline is not None:
        reached = "reached from the start" if finding.found else "in a state that is not known to be reachable"
        console.print(f"\nFor example, {reached}:")
        print_violated(timeline, console)
        if not finding.found:
            console.print(f"Before: {escape(_start(timeline))}")
        console.print(timeline_table(timeline))


def write_page(path: Path, title: str, timeline: Timeline, spec: Spec, introduction: str = "") -> int:
    """Write the timeline's page; returns 2 and says why if it cannot be written, else 0."""
    try:
        write_timeline_page(path, title, timeline, spec, introduction)
    except OSError as error:
        print(
            f"--html {path} cannot be written: {error.strerror}; give a file in a folder that exists", file=sys.stderr
        )
        return 2
    print(f"{path}: a page to step through with the arrow keys", file=sys.stderr)
    return 0


def print_violated(timeline: Timeline, console: Console) -> None:
    """Which property, which part of it, and the values that make it false."""
    console.print(f"[red]VIOLATED[/red] [bold]{timeline.violated}[/bold]. {escape(timeline.meaning)}")
    group = SPEC.properties[timeline.violated].group if timeline.violated in SPEC.properties else ""
    if promise := title(group):
        console.print(f"[dim]{group}: {promise}.[/dim]")
    if timeline.conjunct:
        console.print(f"False: [red]{escape(timeline.conjunct)}[/red]")
    for value in timeline.values:
        console.print(f"       [dim]{escape(value)}[/dim]")


def _print_way(finding: Finding, console: Console) -> None:
    found, timeline = finding.found, finding.timeline
    if found is None or timeline is None:
        return
    console.print(
        f"Shortest way from the start: {len(timeline.moments)} steps ({found.states:,} states searched in "
        f"{found.seconds:.2f} s; {found.instance})."
    )
    first = finding.first_lemma
    if first is not None and first[1] != timeline.violated:
        console.print(f"The first lemma or counter to become false: [bold]{first[1]}[/bold], at event {first[0]}.")
    console.print()


def _print_searched(finding: Finding, console: Console) -> None:
    """Why the state before is not reachable, as far as that is known."""
    if not finding.searched:
        console.print("Reachable? Not known: searches look for false properties, not for missing options.")
    for e in finding.searched:
        answer = "no" if e.complete else "not near the start"
        extent = "all" if e.complete else "the first"
        console.print(f"Reachable? {answer}: {extent} {e.states:,} states of {e.instance} searched, no violation.")
    if finding.stale:
        console.print(f"(Searched in Python. The compiled explorer sees more: [bold]{REBUILD}[/bold])")


def _print_stage_reached(finding: Finding, console: Console) -> None:
    """Whether a search met the failure, and on which way."""
    search = finding.searched[-1]
    if finding.way is None:
        _print_searched(finding, console)
        return
    console.print(
        f"Reachable? yes, in {len(finding.way.moments)} steps ({search.states:,} states searched; {search.instance}): "
        + escape("; ".join(m.event for m in finding.way.moments))
    )


def _start(timeline: Timeline) -> str:
    """The state before, individual by individual, without what is as at the start."""
    lanes: dict[str, list[str]] = {}
    for edit in timeline.start:
        if not edit.counted:
            lanes.setdefault(edit.owner, []).append(in_words(edit))
    return (
        "; ".join(f"{owner or 'system'}: {', '.join(texts)}" for owner, texts in lanes.items()) or "the initial state"
    )


def timeline_table(timeline: Timeline) -> Table:
    """One line for each event, one column for each individual that takes part."""
    shown = [x for x in timeline.individuals if any(x in m.changes for m in timeline.moments)]
    table = Table(show_lines=True)
    table.add_column("#", justify="right")
    table.add_column("event")
    for individual in shown:
        table.add_column(individual)
    table.add_column("note")
    for number, moment in enumerate(timeline.moments, 1):
        notes = [] if moment.actor == "scheduler" else [f"by the {moment.actor}"]
        if moment.ignored_guards:
            notes.append(f"[red]the guard would have refused: {', '.join(moment.ignored_guards)}[/red]")
        if moment.omitted_effects:
            notes.append(f"[red]left out: {', '.join(moment.omitted_effects)}[/red]")
        cells = [escape("\n".join(moment.changes.get(x, ()))) for x in shown]
        table.add_row(str(number), moment.event, *cells, "\n".join(notes))
    return table


__all__ = ["print_diagnosis", "print_finding", "print_findings", "print_violated", "timeline_table", "write_page"]
