"""`tokenspeed verify trace FILE`: is what a scheduler recorded a behaviour of the specification?"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..conform._replay import UNCHECKED_GUARDS
from ..conform.trace_file import TraceFileError, Validator, Verdict
from ..system import SPEC
from .console import make_console


def run_trace(path: Path, json_output: bool = False) -> int:
    """Replay the file and print the verdict. Returns 0 if all is allowed, 1 if not, 2 if the file cannot be judged."""
    try:
        verdict = Validator(SPEC, path).run()
    except OSError as error:
        print(f"{path} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    except TraceFileError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    if json_output:
        print(json.dumps({"spec": SPEC.digest(), "allowed": not verdict.false} | dataclasses.asdict(verdict), indent=2))
    else:
        _print_verdict(verdict, make_console())
    return 1 if verdict.false else 0


def _print_verdict(verdict: Verdict, console: Console) -> None:
    rate = f"{verdict.seconds:.2f} s, {verdict.events / max(verdict.seconds, 1e-9) / 1e6:.1f} million events/s"
    if not verdict.false:
        console.print(f"[green]Allowed[/green]: all {verdict.events:,} events, and the state at the end ({rate}).")
        if UNCHECKED_GUARDS:
            console.print(f"Not checked: {', '.join(UNCHECKED_GUARDS)}.")
        return
    if not verdict.event:
        console.print(f"[red]NOT ALLOWED[/red]: each of the {verdict.events:,} events is, but {verdict.false}.")
        return
    console.print(
        f"[red]NOT ALLOWED[/red]: event {verdict.number:,}, [bold]{verdict.event}[/bold], at offset {verdict.offset}"
    )
    console.print(f"False guard: [red]{verdict.guard}[/red]: {verdict.false}")
    for place, value in verdict.values.items():
        console.print(f"  {place} = {value}")
    console.print(f"The {verdict.events:,} events before are allowed ({rate}). The last of them:\n")
    console.print(_context(verdict))


def _context(verdict: Verdict) -> Table:
    """One line for each event, a column for each individual of the bad event and one for all others."""
    names = list(dict.fromkeys(verdict.names))
    table = Table()
    table.add_column("#", justify="right")
    for title in ("event", *names, "others"):
        table.add_column(title)
    table.add_column("note")
    first = verdict.number - len(verdict.context) + 1
    for number, moment in enumerate(verdict.context, first):
        others = [
            f"{owner} {text}".strip() for owner, texts in moment.changes.items() if owner not in names for text in texts
        ]
        note = "" if moment.actor == "scheduler" else f"by the {moment.actor}"
        if moment.ignored_guards:
            note = f"[red]not allowed: {', '.join(moment.ignored_guards)}[/red]"
        cells = [", ".join(moment.changes.get(x, ())) for x in names]
        table.add_row(str(number), moment.event, *cells, ", ".join(others), note)
    return table
