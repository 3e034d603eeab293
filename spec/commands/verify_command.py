"""`tokenspeed verify`: tables for people, JSON for machines, and the exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..claims.groups import title
from ..explain.debugger import debug
from ..language.expressions import SpecError
from ..language.labels import guard_labels
from ..language.ranking import helpful_transitions
from ..language.spec import Spec
from ..prove.proofs import SOLVERS
from ..search.explore import available_cores
from ..search.reachable import REBUILD
from ..system import SPEC
from .console import make_console
from .debugger_command import print_findings, write_page
from .proofs import Report, Row, verify

INCOMPLETE = 3
"""Exit status: nothing is wrong, but not everything could be looked at."""


def run_verify(json_output: bool = False, solver: str = SOLVERS[0], html: Path | None = None) -> int:
    """Verify the specification with a solver. Returns the exit status.

    `html`: where to write the timeline of a violation as a page.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("proving")

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        try:
            report = verify(SPEC, show, solver, available_cores())
        except SpecError as error:
            print(f"the specification is not complete: {error}", file=sys.stderr)
            return 2
    failures = [o for row in report.rows for o in row.failures]
    violated = report.exploration is not None and report.exploration.violations
    findings = debug(SPEC, failures) if failures or violated else []
    if json_output:
        print(json.dumps(_as_json(report) | {"findings": [f.as_json() for f in findings]}, indent=2))
    else:
        _print_report(report, make_console())
        print_findings(findings, make_console())
    timelines = [(f"{f.transition}: {f.claim}", f.timeline) for f in findings if f.timeline]
    if html is not None and timelines:
        return write_page(html, *timelines[0], SPEC) or 1
    if html is not None:
        print(f"--html: nothing is violated, so {html} was not written", file=sys.stderr)
    if report.proved:
        return 0
    return INCOMPLETE if report.unrefuted else 1


def _print_report(report: Report, console: Console) -> None:
    heading = f"Properties, for any number of requests, KV blocks and steps in flight, decided by {report.solver}"
    table = Table(title=heading, title_justify="left")
    table.add_column("")
    table.add_column("property")
    table.add_column("technique")
    table.add_column("proofs", justify="right")
    table.add_column("time", justify="right")
    table.add_column("verdict")
    group = ""
    for row in (r for r in report.rows if r.group != "lemma"):
        if row.group != group:
            group = row.group
            table.add_row(f"[bold]{group}[/bold]", f"[bold]{title(group)}[/bold]", "", "", "", "")
        name = row.name if row.technique == "delta rule" else f"{row.name}\n[dim]{row.meaning}[/dim]"
        table.add_row("", name, row.technique, str(len(row.obligations)), f"{row.seconds:.3f} s", _verdict(row))
    lemmas = [r for r in report.rows if r.group == "lemma"]
    proofs = sum(len(r.obligations) for r in lemmas)
    failed = [r.name for r in lemmas if r.failures]
    seconds = sum(r.seconds for r in lemmas)
    verdict = f"[red]FAILED: {', '.join(failed)}[/red]" if failed else "[green]proved[/green]"
    table.add_row(
        "", f"{len(lemmas)} lemmas that these proofs need", "induction", str(proofs), f"{seconds:.3f} s", verdict
    )
    console.print(table)
    _print_contract(report.spec, console)
    for row in report.rows:
        for o in row.failures:
            console.print(f"[red]{o.verdict}[/red] {row.name}: {o.subject} does not keep it")
    exploration = report.exploration
    assert exploration is not None
    spec = report.spec
    states = sum(len(e.values) for e in spec.enums.values())
    console.print(
        f"{len(report.obligations)} obligations over {len(spec.transitions)} transitions with "
        f"{len(guard_labels(spec))} guards: {sum(o.proved for o in report.obligations)} proved by {report.solver}."
    )
    reached = f"all {len(report.antecedents)} antecedents of properties can hold"
    console.print(
        f"Vacuity: {_good_or_list('every transition can be taken', report.vacuous)}, "
        f"{_good_or_list(reached, report.empty)}."
    )
    if exploration.stale:
        console.print(
            "Reachability: [yellow]not all searched[/yellow]: the compiled explorer is of another specification. "
            f"{exploration.states:,} states were searched in Python. For the rest: [bold]{REBUILD}[/bold]"
        )
    else:
        console.print(
            f"Reachability: {_good_or_list(f'all {len(spec.transitions)} transitions taken', exploration.untaken)}, "
            f"{_good_or_list(f'all {states} states reached', exploration.unreached)}; {exploration.states:,} states of "
            f"{len(exploration.explored)} small instances searched in {exploration.seconds:.1f} s, "
            f"{len(exploration.violations)} violations."
        )
    for e in exploration.violations:
        console.print(f"[red]VIOLATED[/red] {e.violated} in an instance of {e.instance}")
    console.print(f"Specification {spec.digest()[:16]}, {report.seconds:.1f} s in all.")
    if report.proved:
        console.print("[green]Everything holds.[/green]")
    elif report.unrefuted:
        console.print("[yellow]Everything is proved, and not everything was searched.[/yellow]")
    else:
        console.print("[red]Not everything holds.[/red]")


def _print_contract(spec: Spec, console: Console) -> None:
    """What the proof of L5 asks of a policy, and of everybody else."""
    table = Table(title="The contract: what L5 asks of a policy, besides taking what helps", title_justify="left")
    table.add_column("clause")
    table.add_column("meaning")
    for clause in spec.clauses.values():
        table.add_row(clause.name, clause.doc)
    console.print(table)
    helpers = "; ".join(f"by the {actor}: {', '.join(names)}" for actor, names in helpful_transitions(spec).items())
    console.print(f"What helps is taken at last, unless the situation ends before: {helpers}.")


def _verdict(row: Row) -> str:
    return "[green]proved[/green]" if not row.failures else f"[red]{row.verdict}[/red]"


def _good_or_list(good: str, bad: list[str]) -> str:
    return good if not bad else f"[red]not {', '.join(bad)}[/red]"


def _as_json(report: Report) -> dict[str, Any]:
    exploration = report.exploration
    assert exploration is not None
    return {
        "spec": report.spec.digest(),
        "solver": report.solver,
        "proved": report.proved,
        "seconds": round(report.seconds, 3),
        "properties": [
            {
                "group": row.group, "title": title(row.group), "name": row.name, "meaning": row.meaning,
                "technique": row.technique,
                "verdict": row.verdict, "seconds": round(row.seconds, 4),
                "obligations": [
                    {"subject": o.subject, "verdict": o.verdict, "seconds": round(o.seconds, 4)}
                    for o in row.obligations
                ],
            }
            for row in report.rows
        ],
        "contract": [
            {"name": c.name, "meaning": c.doc, "while": c.stage, "formula": str(c.formula)}
            for c in report.spec.clauses.values()
        ],
        "helpful_transitions": helpful_transitions(report.spec),
        "vacuous_transitions": report.vacuous, "vacuous_antecedents": report.empty,
        "exploration": {
            "states": exploration.states, "seconds": round(exploration.seconds, 3), "untaken": exploration.untaken,
            "unreached": exploration.unreached, "violations": [e.violated for e in exploration.violations],
        },
    }  # fmt: skip
