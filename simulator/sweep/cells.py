"""Run the cells of a study in processes of their own. What is done is kept, so a study that was stopped goes on."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from ...scheduler import SPEC_HASH
from ..errors import ConfigurationError, SimulatorError
from ..policies import policy_source
from ..study.metrics import as_json
from ..study.run import run_study
from ..study.settings import StudySettings, load_workload, settings_as_json
from ..study.study import Study
from ..traces.source import trace_source
from ..version import VERSION
from ..workload.presets import PRESETS
from .experiment import Cell, Experiment, Targets

Row = dict[str, Any]
"""A cell's result: plain values by column."""


def run_cells(
    experiment: Experiment, folder: Path, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Row]:
    """The results of all cells in their order, whoever computed them when.

    Cells that `folder`/cells has are not run again if nothing about them has changed: settings, trace, policy file,
    targets, version, scheduler. workers: processes, None for one on each core. progress: called with (cells done, all).
    Raises the first SimulatorError of a cell, naming the cell; what was done until then is kept.
    """
    cells = experiment.cells()
    kept = folder / "cells"
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"out is {str(folder)!r}, which cannot be written: {error.strerror}") from error
    sources: dict[str, Any] = {}
    names = [kept / f"{_key(cell, experiment.targets, sources)}.json" for cell in cells]
    rows: dict[int, Row] = {}
    for number, name in enumerate(names):
        if name.exists():
            rows[number] = json.loads(name.read_text(encoding="utf-8"))
    left = [number for number in range(len(cells)) if number not in rows]
    if progress is not None:
        progress(len(rows), len(cells))
    count = min(workers or os.cpu_count() or 1, max(len(left), 1))

    def done(number: int, row: Row) -> None:
        part = names[number].with_suffix(".part")
        part.write_text(json.dumps(row, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(names[number])
        rows[number] = row
        if progress is not None:
            progress(len(rows), len(cells))

    if count == 1:
        for number in left:
            done(number, run_cell(cells[number], experiment.targets))
    else:
        # Processes that start anew inherit nothing, so a result cannot depend on who computed it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            futures = {pool.submit(run_cell, cells[number], experiment.targets): number for number in left}
            try:
                for future in as_completed(futures):
                    done(futures[future], future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return [rows[number] for number in range(len(cells))]


def run_cell(cell: Cell, targets: Targets) -> Row:
    """Simulate one cell. Raises SimulatorError naming the cell."""
    try:
        study = run_study(cell.settings, load_workload(cell.settings))
    except SimulatorError as error:
        where = ", ".join(f"{axis} {value}" for axis, value in (*cell.choices, ("seed", str(cell.seed))))
        raise type(error)(f"cell with {where}: {error}") from error
    return {**dict(cell.choices), "seed": cell.seed, **_flat(as_json(study.metrics)), **goodput(study, targets)}


def goodput(study: Study, targets: Targets) -> Row:
    """Calls that reach both targets, as a share of all calls and as a rate for each GPU.

    A call with one output token has no speed and needs to reach only the first. A rejected call reaches nothing.
    """
    times = study.times
    fast = np.isnan(times.tokens_per_s) | (times.tokens_per_s >= targets.tokens_per_s)
    reached = (times.ttft_ms <= targets.ttft_ms) & fast  # NaN, of calls that did not finish, is never below
    minutes = study.metrics.duration_s / 60
    return {
        "goodput_share": float(reached.mean()),
        "goodput_calls_per_min_per_gpu": float(reached.sum()) / minutes / study.metrics.gpus,
    }


def _flat(values: Mapping[str, Any]) -> Row:
    row: Row = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            row.update({f"{name}_{part}": number for part, number in value.items()})
        else:
            row[name] = value
    return row


def _key(cell: Cell, targets: Targets, sources: dict[str, Any]) -> str:
    """SHA-256 of all that decides the cell's result."""
    settings: StudySettings = cell.settings
    for path in (settings.workload, settings.cost):
        if path not in PRESETS and path not in sources:
            sources[path] = trace_source(Path(path)) if Path(path).exists() else None
    said = {
        "settings": settings_as_json(settings),
        "workload": sources.get(settings.workload),
        "cost": sources.get(settings.cost),
        "policy": policy_source(settings.policy),
        "choices": cell.choices,
        "targets": [targets.ttft_ms, targets.tokens_per_s],
        "version": VERSION,
        "scheduler": SPEC_HASH,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
