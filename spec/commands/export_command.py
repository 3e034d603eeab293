"""`tokenspeed verify diagram|smtlib|tla`: the specification written down for other tools."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ..generate.diagram import diagrams
from ..generate.tla_liveness import write_tla as tla_modules
from ..prove.smtlib import export
from ..system import SPEC


def write_diagrams(folder: Path) -> int:
    """State diagrams of the machines. Returns the exit status."""

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for machine, text in diagrams(SPEC).items():
            path = folder / f"{machine}.mmd"
            path.write_text(text)
            print(path)

    return _written(folder, write)


def write_smtlib(folder: Path) -> int:
    """Every obligation as SMT-LIB. Returns the exit status."""

    def write() -> None:
        questions = [len(script.questions) for script in export(SPEC, folder)]
        print(f"{sum(questions)} questions in {len(questions)} SMT-LIB files in {folder}")

    return _written(folder, write)


def write_tla(folder: Path) -> int:
    """TLA+ modules. Returns the exit status."""

    def write() -> None:
        for path in tla_modules(SPEC, folder):
            print(path)

    return _written(folder, write)


def _written(folder: Path, write: Callable[[], None]) -> int:
    try:
        write()
    except OSError as error:
        print(f"{folder} cannot be written: {error.strerror}; give a folder that can", file=sys.stderr)
        return 2
    return 0
