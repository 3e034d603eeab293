"""`tokenspeed study`: run a study of many cells and write its tables and its page."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...scheduler import SPEC_HASH
from ..errors import ConfigurationError, SimulatorError
from ..version import VERSION
from .cells import Row, run_cells
from .experiment import Experiment, read_experiment
from .outcome import Outcome
from .page import study_page


def run_study_file(path: Path, out: Path, workers: int | None = None) -> int:
    """Run the study in a TOML file; returns the exit status: 0, or 2 after printing an error about the input.

    Writes cells.csv (and cells.parquet if pyarrow is installed), summary.csv, pairs.csv, study.json and study.html into
    `out`. A study that was stopped goes on from the cells that `out` has.
    """
    try:
        experiment = read_experiment(path)
        columns = (
            TextColumn("simulating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("cells")
            rows = run_cells(
                experiment, out, workers, lambda done, every: bar.update(task, completed=done, total=every)
            )
        outcome = Outcome(experiment, rows)
        names = write_outcome(outcome, out)
    except SimulatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    floors = outcome.floors()
    if floors:
        target = experiment.targets.tokens_per_s
        table = Table(title=f"Highest load at which 9 of 10 calls reach {target:g} tokens/s", title_justify="left")
        for column in floors[0]:
            table.add_column(column)
        for row in floors:
            table.add_row(*("-" if value is None else str(value) for value in row.values()))
        console.print(table)
    console.print(f"Wrote {', '.join(names)} into {out}", soft_wrap=True)
    return 0


def write_outcome(outcome: Outcome, out: Path) -> list[str]:
    """Write the files of a study; returns their names. The same results give the same bytes.

    Raises ConfigurationError if the folder cannot be written.
    """
    contents = {
        "study.json": json.dumps(
            {
                "study": outcome.experiment.as_json(),
                "provenance": provenance(outcome.experiment),
                "floors": outcome.floors(),
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n",
        "cells.csv": _csv(outcome.rows),
        "summary.csv": _csv(outcome.summary()),
        "pairs.csv": _csv(outcome.pairs()),
        "study.html": study_page(outcome, provenance(outcome.experiment)),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (out / name).write_text(content, encoding="utf-8")
        return [*contents, *_parquet(outcome.rows, out / "cells.parquet")]
    except OSError as error:
        raise ConfigurationError(f"out is {str(out)!r}, which cannot be written: {error.strerror}") from error


def provenance(experiment: Experiment) -> Mapping[str, str]:
    """What ran."""
    return {
        "TokenSpeed": VERSION,
        "Scheduler specification": SPEC_HASH,
        "Cost model": experiment.as_json()["base"]["cost"],
    }


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return text.getvalue()


def _parquet(rows: Sequence[Row], path: Path) -> list[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        return []
    table: Any = pyarrow.Table.from_pylist(list(rows))
    parquet.write_table(table, path)
    return [path.name]
