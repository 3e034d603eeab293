"""Measured tables and recorded times: exact at what was measured, and refused where they do not fit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.cli import main
from tokenspeed.simulator import StudySettings, load_workload, run_study
from tokenspeed.simulator.cost.explain import explain
from tokenspeed.simulator.cost.protocol import Rows
from tokenspeed.simulator.cost.recorded import COLUMNS as RECORDED_COLUMNS
from tokenspeed.simulator.cost.roofline import roofline
from tokenspeed.simulator.cost.table import COLUMNS, MeasuredTable, read_table
from tokenspeed.simulator.errors import ConfigurationError
from tokenspeed.simulator.study.settings import place_model

PLACED = place_model(StudySettings("swe-agent", model="llama-3.1-8b", gpu="h100", tp=1))
ROOFLINE = roofline(PLACED)
ROWS, CONTEXTS = (1, 2, 8, 64, 256), (1, 4_000, 64_000)
CHUNKS, STARTS = (64, 512, 2_048, 8_192), (0, 8_000, 64_000)
HEADER = ("h100", "llama-3.1-8b", "bf16", "bf16", 1)


def points() -> list[list[Any]]:
    """What a profiler would measure on a device that is a roofline."""
    rows = [[n, 1, c, ROOFLINE.step_ns(Rows.of(decode=[c] * n))] for n in ROWS for c in CONTEXTS]
    rows += [[1, t, s + t, ROOFLINE.step_ns(Rows.of(prefill=[(s, t)]))] for t in CHUNKS for s in STARTS]
    return [[*HEADER, *row] for row in rows]


def write(path: Path, rows: list[list[Any]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([columns, *rows])
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> MeasuredTable:
    return read_table(write(tmp_path_factory.mktemp("table") / "t.csv", points()), PLACED)


def test_measured_points_are_exact(table: MeasuredTable) -> None:
    for rows, context in ((r, c) for r in ROWS for c in CONTEXTS):
        step = Rows.of(decode=[context] * rows)
        assert table.step_ns(step) == pytest.approx(ROOFLINE.step_ns(step), abs=1)
    for tokens, start in ((t, s) for t in CHUNKS if t > ROWS[-1] for s in STARTS):
        step = Rows.of(prefill=[(start, tokens)])
        assert table.step_ns(step) == pytest.approx(ROOFLINE.step_ns(step), abs=1)


@given(
    st.lists(st.integers(1, 64_000), max_size=200),
    st.lists(st.tuples(st.integers(0, 64_000), st.integers(2, 2_000)), max_size=3),
)
def test_between_points_it_stays_near_the_device(
    table: MeasuredTable, decode: list[int], chunks: list[tuple[int, int]]
) -> None:
    if not decode and not chunks:
        return
    step = Rows.of(decode=decode, prefill=chunks)
    assert table.step_ns(step) == pytest.approx(ROOFLINE.step_ns(step), rel=0.25)
    assert sum(table.step_parts(step).values()) == pytest.approx(table.step_ns(step), abs=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [r for r in rows if r[5] == 1 and r[6] > 1], "t.csv has no decoding points"),
        (lambda rows: [r for r in rows if r[6] == 1], "t.csv has no prompt points"),
        (lambda rows: [["b200", *r[1:]] for r in rows], "it has b200 llama-3.1-8b bf16 bf16 1"),
        (lambda rows: [*rows, [*HEADER, 2, 3, 9, 5]], "line 29: rows is 2 and tokens 3; one of them must be 1"),
        (lambda rows: [*rows, [*HEADER, 1, 9, 3, 5]], "line 29: context is 3, less than the 9 tokens"),
        (lambda rows: [*rows, rows[0]], "line 29: rows 1, tokens 1, context 1 a second time"),
        (lambda rows: [*rows, [*HEADER, 1, 1, "x", 5]], "line 29: column 'context' is 'x'; it must be a number"),
        (lambda rows: [*rows, [*HEADER, 1, 99, 100, 5]], "no point with tokens 99 and context 99"),
    ],
)
def test_a_table_that_does_not_fit_is_named(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_table(write(tmp_path / "t.csv", change(points())), PLACED)
    assert message in str(error.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 1: column 'ns' is missing"):
        read_table(write(tmp_path / "t.csv", [], COLUMNS[:-1]), PLACED)


def settings(**more: Any) -> StudySettings:
    return StudySettings("swe-agent", model="llama-3.1-8b", gpu="h100", tp=1, limit=2, concurrency=2, **more)


def test_a_study_on_a_table_and_what_it_does_not_reach(tmp_path: Path) -> None:
    path = str(write(tmp_path / "t.csv", points()))
    chosen = settings(cost=path)
    study = run_study(chosen, load_workload(chosen))
    assert study.metrics.finished == len(study.workload.calls)
    estimate = run_study(settings(), study.workload)
    assert study.metrics.tpot_ms.p50 == pytest.approx(estimate.metrics.tpot_ms.p50, rel=0.05)
    with pytest.raises(ConfigurationError, match=r"max_running is 300, but .* has at most 256 decoding rows"):
        run_study(settings(cost=path, max_running=300), study.workload)
    with pytest.raises(ConfigurationError, match=r"max_step_tokens is 9000, but .* at most 8192 tokens"):
        run_study(settings(cost=path, max_step_tokens=9000), study.workload)


def test_recorded_times_play_the_same_run_again_and_refuse_another(tmp_path: Path) -> None:
    chosen = settings()
    work = load_workload(chosen)
    first = run_study(chosen, work)
    steps = first.recording.steps
    order = steps["start_ns"].argsort(kind="stable")
    rows = [
        [steps["rows"][n], steps["tokens"][n], steps["context_tokens"][n], steps["end_ns"][n] - steps["start_ns"][n]]
        for n in order.tolist()
    ]
    path = str(write(tmp_path / "steps.csv", rows, RECORDED_COLUMNS))
    again = run_study(settings(cost=path), work)
    assert (again.recording.finish_ns == first.recording.finish_ns).all()
    assert again.metrics == first.metrics
    with pytest.raises(ConfigurationError, match=r"steps\.csv: step \d+ has \d+ rows, .* but the simulation's has"):
        run_study(settings(cost=path, max_step_tokens=1_000), work)
    with pytest.raises(ConfigurationError, match=r"recorded times .* are those of one replica"):
        run_study(settings(cost=path, replicas=2), work)


def test_an_unknown_cost_model_is_an_error() -> None:
    result = CliRunner().invoke(main, ["simulate", "--cost", "guess"])
    assert result.exit_code == 2
    assert "cost is 'guess', which is neither 'roofline' nor a file" in result.stderr


def test_the_explanation_adds_up_to_the_devices_time() -> None:
    chosen = settings()
    study = run_study(chosen, load_workload(chosen))
    parts = explain(study.recording.step_runs, study.cluster.cost)
    busy = float(study.recording.step_runs.runs["busy_ns"].sum())
    assert sum(parts.values()) == pytest.approx(busy)
    assert abs(parts["not explained"]) < 0.02 * busy
    assert next(iter(parts)) == "dense matrices (memory)"
    result = CliRunner().invoke(main, ["simulate", "--sessions", "1", "--explain"])
    assert "routed experts" in result.stdout and "not explained" in result.stdout
