"""`tokenspeed verify binary [PATH]`: is a compiled scheduler what the specification says? Link by link."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..conform.binary import BinaryError, ask_binary, check_binary, find_binary
from ..system import SPEC
from .console import make_console


def run_binary(path: Path | None = None, json_output: bool = False) -> int:
    """Check one binary (the installed one) and print each link.

    Returns 0 if nothing differs, 1 if something does, 2 if there is none.
    """
    try:
        binary = path or find_binary()
        answer = ask_binary(binary)
    except BinaryError as error:
        print(error, file=sys.stderr)
        return 2
    checks = check_binary(SPEC, answer)
    good = all(c.good is not False for c in checks)
    if json_output:
        shown = [{"what": c.what, "good": c.good, "found": c.found, "details": c.details} for c in checks]
        print(
            json.dumps(
                {"binary": str(binary), "checked_build": answer["CHECKED"], "good": good, "checks": shown}, indent=2
            )
        )
        return 0 if good else 1
    console = make_console()
    build = "checked" if answer["CHECKED"] else "release"
    console.print(f"{binary} ({build} build)", highlight=False, soft_wrap=True)
    for check in checks:
        verdict = {True: "[green]ok    [/green]", False: "[red]FAILED[/red]", None: "[yellow]-     [/yellow]"}[
            check.good
        ]
        console.print(f"{verdict} [bold]{check.what}[/bold]: {check.found}", highlight=False)
        for detail in check.details:
            console.print(f"         {detail}", markup=False, highlight=False, soft_wrap=True)
    skipped = [c.what for c in checks if c.good is None]
    console.print("Everything that was checked holds." if good else "[red]Not everything holds.[/red]")
    if skipped:
        console.print(f"Not checked: {', '.join(skipped)}.")
    return 0 if good else 1
