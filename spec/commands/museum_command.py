"""`tokenspeed verify bugs` and `bug NAME`: the museum on the terminal."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..museum import BUGS, exhibit
from ..museum.case import NotShown
from ..system import SPEC
from .console import make_console
from .debugger_command import print_violated, timeline_table, write_page


def list_bugs(json_output: bool) -> int:
    """All bugs of the museum. Returns the exit status 0."""
    if json_output:
        print(json.dumps([asdict(b) | {"urls": [s.url for s in b.sources]} for b in BUGS], indent=2))
        return 0
    table = Table(title=f"{len(BUGS)} historic bugs: tokenspeed verify bug NAME", title_justify="left")
    for column in ("name", "what went wrong", "where", "excluded by"):
        table.add_column(column)
    for bug in BUGS:
        table.add_row(bug.name, bug.title, "\n".join(map(str, bug.sources)), bug.property)
    make_console().print(table)
    return 0


def show_bug(name: str, json_output: bool = False, html: Path | None = None) -> int:
    """One bug with its timeline. Returns 0 if it is shown, 1 if nothing is violated, 2 if there is no such bug."""
    bug = next((b for b in BUGS if b.name == name), None)
    if bug is None:
        near = difflib.get_close_matches(name, [b.name for b in BUGS], n=4, cutoff=0.3)
        close = f" Close: {', '.join(near)}." if near else ""
        print(f"{name!r}: no such bug.{close} `tokenspeed verify bugs` lists them.", file=sys.stderr)
        return 2
    try:
        shown = exhibit(SPEC, bug)
    except NotShown as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    timeline = shown.timeline
    if json_output:
        print(
            json.dumps(asdict(bug) | {"urls": [s.url for s in bug.sources], "timeline": timeline.as_json()}, indent=2)
        )
    else:
        console = make_console()
        console.print(f"[bold]{bug.title}[/bold]  ({bug.cause})")
        for source in bug.sources:
            console.print(f"  {source}: {source.url}", highlight=False)
        console.print(f"{escape(bug.wrong)}\n")
        console.print(f"In the specification: {escape(bug.here)} Left out: {escape(', '.join(bug.left_out))}\n")
        print_violated(timeline, console)
        console.print(
            f"Shortest way from the start{' in this story' if bug.aside else ''}: {len(timeline.moments)} steps "
            f"({shown.found.states:,} states searched in {shown.seconds:.2f} s; {shown.found.instance}).\n"
        )
        console.print(timeline_table(timeline))
    if html is not None:
        return write_page(html, bug.title, timeline, SPEC, f"{bug.wrong} In the specification: {bug.here}")
    return 0


__all__ = ["list_bugs", "show_bug"]
