"""`tokenspeed verify drop TRANSITION:GUARD`: what goes wrong without one guard."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path

from ..explain.drop import diagnose
from ..language.labels import guard_labels
from ..system import SPEC
from .console import make_console
from .debugger_command import print_diagnosis, write_page


def run_drop(label: str, json_output: bool = False, html: Path | None = None) -> int:
    """Print what breaks without the guard. Returns 1 if something does, 0 if not, 2 if there is no such guard.

    `html`: where to write the timeline as a page.
    """
    labels = guard_labels(SPEC)
    if label not in labels:
        near = difflib.get_close_matches(label, labels, n=5, cutoff=0.3)
        close = f" Close: {'; '.join(near)}." if near else ""
        print(f"{label!r}: no such guard.{close} Write TRANSITION:GUARD.", file=sys.stderr)
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
