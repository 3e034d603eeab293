"""`tokenspeed simulate`: run one study, print its table and write its files."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .errors import SimulatorError
from .report import explanation_table, metrics_table, prepare_folder, write_files
from .study.run import run_study
from .study.settings import StudySettings, load_workload
from .world.dispatcher import parse_outage

PROGRESS_UPDATES = 200


class _OnProgress(Protocol):
    def __call__(self, ended: int, /) -> None: ...


def run_simulate(
    options: Mapping[str, Any], out: Path | None, record_trace: Path | None = None, explained: bool = False
) -> int:
    """Run one study with the settings in `options`, by field of `StudySettings`; outages as `parse_outage` reads them.

    Returns the exit status: 0, 1 if no call finished, or 2 after printing an error about the input.

    Prints the metrics to stdout, warnings and progress to stderr. With `out`, writes the files of a study into that
    folder, which is created first: a long study must not end without a place. With `record_trace`, the transitions of
    each replica's scheduler are written into that file, or into one for each replica. With `explained`, prints where
    the time of the steps goes.
    """
    try:
        settings = StudySettings(**{**options, "outages": tuple(map(parse_outage, options.get("outages", ())))})
        if out is not None:
            prepare_folder(out)
        with Console(stderr=True).status(f"reading {settings.workload}"):
            workload = load_workload(settings)
        for warning in workload.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        with _progress_bar(len(workload.calls)) as progress:
            study = run_study(settings, workload, progress, record_trace)
        console = Console(highlight=False)
        console.print(metrics_table(study))
        if study.recording.rejected:
            first = min(study.recording.rejected)
            console.print(f"First rejection: call {first}: {study.recording.rejected[first]}")
        if explained:
            console.print(explanation_table(study))
        if out is not None:
            names = write_files(study, out)
            console.print(f"Wrote {', '.join(names)} into {out}", soft_wrap=True)
    except SimulatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if study.metrics.finished == 0:
        print("error: no call finished: all were rejected", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _progress_bar(calls: int) -> Iterator[_OnProgress]:
    """A progress bar on stderr that costs nothing between its updates."""
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("calls"), TimeElapsedColumn())
    stride = max(calls // PROGRESS_UPDATES, 1)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("calls", total=calls)

        def on_progress(ended: int, /) -> None:
            if ended % stride == 0 or ended == calls:
                bar.update(task, completed=ended)

        yield on_progress
