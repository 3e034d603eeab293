"""`tokenspeed verify`: tables for people, JSON for machines, and the exit status."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..conform.binary import run_binary
from ..explain.debugger import debug
from ..explain.drop import diagnose
from ..generate.diagram import diagrams
from ..generate.tla_liveness import write_tla
from ..language.expressions import SpecError
from ..language.labels import guard_labels
from ..language.ranking import helpful_transitions
from ..language.spec import Spec
from ..prove.proofs import SOLVERS
from ..prove.smtlib import export
from ..search.explore import available_cores
from ..search.reachable import REBUILD
from ..system import SPEC
from .debugger_command import print_diagnosis, print_findings, write_page
from .museum_command import list_bugs, show_bug
from .mutants_command import run_mutants
from .proofs import Report, Row, verify
from .trace_command import run_trace


def run_verify(
    json_output: bool = False,
    drop: str | None = None,
    diagram: Path | None = None,
    smtlib: Path | None = None,
    solver: str = SOLVERS[0],
    mutants: bool = False,
    binary: str | None = None,
    trace: Path | None = None,
    html: Path | None = None,
    bugs: bool = False,
    bug: str | None = None,
    tla: Path | None = None,
) -> int:
    """Verify the specification with a solver, or do the one other thing that is asked for. Returns the exit status.

    `html`: where to write the timeline of a violation as a page.
    """
    if bugs:
        return list_bugs(json_output, make_console())
    if bug is not None:
        return show_bug(bug, json_output, html, make_console())
    if mutants:
        return run_mutants(json_output, make_console())
    if binary is not None:
        return run_binary(binary, json_output, make_console())
    if trace is not None:
        return run_trace(trace, json_output, make_console())
    try:
        if smtlib is not None:
            return _write_smtlib(smtlib)
        if diagram is not None:
            return _write_diagrams(diagram)
        if tla is not None:
            return _write_tla(tla)
    except OSError as error:
        print(
            f"{smtlib or diagram or tla} cannot be written: {error.strerror}; give a folder that can", file=sys.stderr
        )
        return 2
    if drop is not None:
        return _drop(drop, json_output, html)
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
    return 0 if report.proved else 1


def make_console() -> Console:
    """Piped output gets a width at which tables read well."""
    console = Console()
    return console if console.is_terminal else Console(width=132)


def _write_diagrams(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for machine, text in diagrams(SPEC).items():
        path = folder / f"{machine}.mmd"
        path.write_text(text)
        print(path)
    return 0


def _write_smtlib(folder: Path) -> int:
    questions = [len(script.questions) for script in export(SPEC, folder)]
    print(f"{sum(questions)} questions in {len(questions)} SMT-LIB files in {folder}")
    return 0


def _write_tla(folder: Path) -> int:
    for path in write_tla(SPEC, folder):
        print(path)
    return 0


def _print_report(report: Report, console: Console) -> None:
    title = f"Properties, for any number of requests, KV blocks and steps in flight, decided by {report.solver}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("property")
    table.add_column("technique")
    table.add_column("proofs", justify="right")
    table.add_column("time", justify="right")
    table.add_column("verdict")
    for row in (r for r in report.rows if r.group != "lemma"):
        name = row.name if row.technique == "delta rule" else f"{row.name}\n[dim]{row.meaning}[/dim]"
        table.add_row(row.group, name, row.technique, str(len(row.obligations)), f"{row.seconds:.3f} s", _verdict(row))
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
    console.print(f"Vacuity: {_good_or_list('every transition can be taken', report.vacuous)}.")
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
    console.print("[green]Everything holds.[/green]" if report.proved else "[red]Not everything holds.[/red]")


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
                "group": row.group, "name": row.name, "meaning": row.meaning, "technique": row.technique,
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
        "vacuous_transitions": report.vacuous,
        "exploration": {
            "states": exploration.states, "seconds": round(exploration.seconds, 3), "untaken": exploration.untaken,
            "unreached": exploration.unreached, "violations": [e.violated for e in exploration.violations],
        },
    }  # fmt: skip


def _drop(label: str, json_output: bool, html: Path | None) -> int:
    labels = guard_labels(SPEC)
    if label not in labels:
        near = difflib.get_close_matches(label, labels, n=5, cutoff=0.3) or labels[:5]
        print(f"--drop {label!r}: no such guard. Close: {'; '.join(near)}. Write TRANSITION:GUARD.", file=sys.stderr)
        return 2
    diagnosis = diagnose(SPEC, label)
    if json_output:
        print(json.dumps(diagnosis.as_json(), indent=2))
    else:
        print_diagnosis(diagnosis, make_console())
    if html is not None and diagnosis.timeline is not None:
        status = write_page(html, f"Without the guard {label}", diagnosis.timeline, SPEC)
        if status:
            return status
    elif html is not None:
        print(f"--html: there is no timeline, so {html} was not written", file=sys.stderr)
    return 0 if diagnosis.verdict == "not needed" else 1
