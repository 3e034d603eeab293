"""`tokenspeed verify spmd`: a table for people, JSON for machines, and the exit status."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..proof.museum import exhibits
from ..proof.obligations import obligations
from .evidence import Evidence, collect


def run_verify_spmd(
    json_output: bool = False, smtlib: Path | None = None, bug: str | None = None, processes: int = 2
) -> int:
    """Checks theorems, mappings, mutants, rules and museum; or writes the theorems, or shows a bug's timeline.

    Returns the exit status: 0 if everything holds, 1 if not, 2 for a bug that is not known or a folder that cannot be
    written.
    """
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=150)
    if smtlib is not None:
        return _write(smtlib, console)
    if bug is not None:
        return _show(bug, json_output, console)
    with Console(stderr=True).status("checking mappings and mutants"):
        evidence = collect(processes)
    if json_output:
        print(json.dumps(evidence.as_json(), indent=2))
    else:
        _print(evidence, console)
    return 0 if evidence.holds else 1


def _print(evidence: Evidence, console: Console) -> None:
    section = ""
    table = Table(box=None, pad_edge=False)
    for title in ("", "checked", "", "seconds", ""):
        table.add_column(title, justify="right" if title in ("checked", "seconds") else "left", overflow="fold")
    for row in evidence.rows:
        if row.section != section:
            section = row.section
            table.add_row(f"[bold]{section}[/bold]")
        verdict = "[green]holds[/green]" if row.holds else "[red]FAILED[/red]"
        table.add_row(f"  {row.name}", str(row.counted), verdict, f"{row.seconds:.2f}", row.note)
    console.print(table)
    for row in evidence.rows:
        for problem in row.problems[:5]:
            console.print(f"[red]{row.section}: {row.name}[/red]: {problem}", highlight=False)
    mutants = sum(row.counted for row in evidence.rows if row.section == "mutants")
    plans = sum(row.counted for row in evidence.rows if row.section == "mappings")
    failed = sum(not row.holds for row in evidence.rows)
    summary = f"{plans} mappings, {mutants} mutants, {evidence.seconds:.1f} s; "
    summary += "everything holds" if evidence.holds else f"{failed} rows FAILED"
    console.print(summary, highlight=False)


def _write(folder: Path, console: Console) -> int:
    """Every theorem as an SMT-LIB file; unsat means proved, except where the name says refuted."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for obligation in obligations():
            kind = "refuted" if obligation.refuted else "proved"
            name = obligation.name.replace(" ", "-").replace("'", "")
            header = f"; {obligation.says}\n; expected: {'sat' if obligation.refuted else 'unsat'}\n(set-logic ALL)\n"
            (folder / f"{kind}-{name}.smt2").write_text(header + obligation.script(), encoding="utf-8")
    except OSError as error:
        console.print(f"{folder} cannot be written: {error.strerror}; give a folder that can")
        return 2
    console.print(f"{len(obligations())} obligations in {folder}")
    return 0


def _show(name: str, json_output: bool, console: Console) -> int:
    known = {exhibit.name: exhibit for exhibit in exhibits()}
    if name not in known:
        console.print(f"bug {name!r} is not known; there are {', '.join(known)}")
        return 2
    exhibit = known[name]
    lines, refusal = exhibit.timeline(), exhibit.refusal()
    if json_output:
        print(
            json.dumps(
                {
                    "name": name,
                    "mapping": exhibit.mapping,
                    "source": exhibit.source,
                    "cause": exhibit.cause,
                    "timeline": lines,
                    "refusal": refusal,
                },
                indent=2,
            )
        )
    else:
        console.print(f"{exhibit.mapping}\n{exhibit.source}: {exhibit.cause}\n", highlight=False)
        for line in lines:
            console.print(line, highlight=False, no_wrap=True, crop=False)
    return 0 if refusal else 1
