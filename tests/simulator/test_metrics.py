"""Metrics agree with hand calculation; timelines lose nothing."""

from __future__ import annotations

import json
from math import isnan
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.simulator.recording.recorder import CallColumns, Recording
from tokenspeed.simulator.recording.steps import STEP_FIELDS, StepRecorder, recorded
from tokenspeed.simulator.recording.timeline import spread, timeline
from tokenspeed.simulator.study.metrics import Percentiles, as_json, call_times, measure, steady_window
from tokenspeed.simulator.workload.page_hashes import NO_HASHES
from tokenspeed.simulator.workload.workload import Call, Session, Workload

MS = 1_000_000
S = 1_000 * MS


def two_calls() -> tuple[Workload, Recording]:
    """Call 0: 1,000 tokens in, 11 out, 640 hit. Call 1: 200 in, 1 out. Call 2 is rejected."""
    calls = [Call(0, 0, 0, 1000, 11, NO_HASHES), Call(1, 1, 0, 200, 1, NO_HASHES), Call(2, 2, 0, 9999, 1, NO_HASHES)]
    work = Workload("w", 64, [Session(f"s{n}", 0, range(n, n + 1)) for n in range(3)], calls, None)
    notes = CallColumns.of(3)
    for call, arrival in zip(calls, (0, 10 * MS, 20 * MS), strict=True):
        notes.arrival_ns[call.index], notes.replica[call.index] = arrival, 0
    notes.rejected[2] = "too long"
    notes.admitted(0, 5 * MS, 640)
    notes.admitted(0, 50 * MS, 0)  # again, after a retraction
    notes.retractions[0] = 1
    notes.admitted(1, 12 * MS, 0)
    notes.first_token_ns[0], notes.first_token_ns[1] = 100 * MS, 130 * MS
    notes.finished(0, 200 * MS, 11)
    notes.finished(1, 130 * MS, 1)
    steps = StepRecorder(0)
    #         start    end     context pairs  rows tokens decode sampled held cached running waiting
    steps.add(5 * MS, 100 * MS, 1000, 9000, (1, 360, 0, 1, 50, 0, 1, 1))
    steps.add(100 * MS, 200 * MS, 9000, 9000, (2, 210, 10, 11, 20, 30, 2, 0))
    return work, notes.freeze(recorded([steps]), num_blocks=100)


def test_metrics_by_hand() -> None:
    work, recording = two_calls()
    times = call_times(work, recording)
    assert times.ttft_ms[:2].tolist() == [100, 120] and isnan(times.ttft_ms[2])
    assert times.tpot_ms[0] == 10 and np.isnan(times.tpot_ms[1:]).all()
    assert times.tokens_per_s[0] == 100
    assert times.hit_rate[:2].tolist() == [0.64, 0.0]
    metrics = measure(work, recording, times, replicas=1, gpus=4)
    assert (metrics.calls, metrics.finished, metrics.rejected) == (3, 2, 1)
    assert (metrics.prompt_tokens, metrics.output_tokens, metrics.hit_tokens) == (1200, 12, 640)
    assert metrics.duration_s == 0.2
    assert (metrics.ttft_ms.p50, metrics.ttft_ms.p90, metrics.ttft_ms.mean) == (100, 120, 110)
    assert metrics.prefix_hit_rate.p50 == 0.64 and metrics.prefix_hit_rate.p90 == 0.0  # 9 of 10 reach only this
    assert metrics.output_tokens_per_min_per_gpu.mean == pytest.approx(12 / 0.2 * 60 / 4)
    assert metrics.output_tokens_per_min_per_gpu.p50 == pytest.approx(12 / 0.2 * 60 / 4)
    assert metrics.total_tokens_per_min_per_gpu.mean == pytest.approx(1212 / 0.2 * 60 / 4)
    assert (metrics.kv_occupancy.p50, metrics.kv_occupancy.p99) == (0.2, 0.5)  # 100 ms at 20, 95 ms at 50
    assert metrics.retractions == 1
    assert metrics.good_share == 1.0
    assert metrics.device_busy == pytest.approx(195 / 200)


def test_json_has_no_nan() -> None:
    work, recording = two_calls()
    metrics = measure(work, recording, call_times(work, recording), replicas=1, gpus=3)
    values = json.loads(json.dumps(as_json(metrics), allow_nan=False))
    assert values["output_tokens_per_min_per_gpu"]["mean"] == 1200.0
    assert values["kv_occupancy"]["mean"] == pytest.approx((100 * 0.2 + 95 * 0.5) / 195)


def test_metrics_when_nothing_ran() -> None:
    calls = [Call(0, 0, 0, 10**9, 1, NO_HASHES)]
    work = Workload("w", 64, [Session("s", 0, range(1))], calls, None)
    notes = CallColumns.of(1)
    notes.arrival_ns[0] = 5
    notes.rejected[0] = "too long"
    recording = notes.freeze(recorded([StepRecorder(0), StepRecorder(1)]), 10)
    values = as_json(measure(work, recording, call_times(work, recording), replicas=2, gpus=2))
    assert values["ttft_ms"] == {"p50": None, "p90": None, "p99": None, "mean": None}
    assert values["good_share"] is None
    assert timeline(recording, 2, 10).running.tolist() == [[0.0] * 10] * 2


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=300), st.booleans())
def test_percentiles_are_observed_and_reached_as_promised(values: list[float], more_is_better: bool) -> None:
    array = np.array(values)
    result = Percentiles.of(array, more_is_better=more_is_better)
    for level, value in ((0.5, result.p50), (0.9, result.p90), (0.99, result.p99)):
        assert value in values
        at_least_as_good = array >= value if more_is_better else array <= value
        strictly_better = array > value if more_is_better else array < value
        assert at_least_as_good.mean() >= level - 1e-9
        assert strictly_better.mean() < level


def test_percentiles_with_weights() -> None:
    result = Percentiles.of(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 98.0]))
    assert [result.p50, result.p90, result.mean] == pytest.approx([3.0, 3.0, 2.97])


@st.composite
def step_series(draw: st.DrawFn) -> list[tuple[int, int, float]]:
    now, series = 0, []
    for _ in range(draw(st.integers(1, 20))):
        now += draw(st.integers(0, 1000))
        end = now + draw(st.integers(1, 1000))
        series.append((now, end, draw(st.floats(0, 100))))
        now = end
    return series


@given(step_series(), st.integers(1, 30))
def test_spreading_over_intervals_conserves_amounts(series: list[tuple[int, int, float]], intervals: int) -> None:
    start, end, amount = (np.array(column) for column in zip(*series, strict=True))
    edges = np.linspace(0, end[-1], intervals + 1)
    result = spread(start, end, amount, edges)
    assert (result >= -1e-9).all()
    assert result.sum() == pytest.approx(amount.sum())


def test_timeline_by_hand() -> None:
    _, recording = two_calls()
    line = timeline(recording, 1, 2)  # 0 to 100 ms, 100 to 200 ms
    assert line.steps.sum(axis=1).tolist() == pytest.approx([2])
    assert line.busy[0].tolist() == pytest.approx([0.95, 1.0])
    assert line.running[0].tolist() == pytest.approx([0.95, 2.0])
    assert line.waiting[0].tolist() == pytest.approx([0.95, 0.0])
    assert line.held[0].tolist() == pytest.approx([0.475, 0.2])
    assert line.cached[0].tolist() == pytest.approx([0.0, 0.3])
    assert line.output_per_s[0].tolist() == pytest.approx([10, 110])
    assert line.prefill_per_s[0].tolist() == pytest.approx([3600, 2000])
    assert line.middles_s.tolist() == pytest.approx([0.05, 0.15])


def test_blocks_stay_cached_while_a_replica_idles() -> None:
    notes = CallColumns.of(1)
    notes.arrival_ns[0] = 0
    steps = StepRecorder(0)
    steps.add(0, S, 100, 100, (1, 1, 1, 1, 3, 4, 0, 0))
    steps.add(3 * S, 4 * S, 7, 7, (1, 1, 1, 1, 3, 4, 0, 0))
    line = timeline(notes.freeze(recorded([steps]), 10), 1, 4)
    assert line.held[0].tolist() == pytest.approx([0.3, 0, 0, 0.3])
    assert line.cached[0].tolist() == pytest.approx([0.4, 0.7, 0.7, 0.4])


def closed(ends: list[list[int]], concurrency: int | None) -> tuple[Workload, Recording]:
    """Sessions of one call each: [start, end] in seconds."""
    calls = [Call(n, n, 0, 600, 60, NO_HASHES) for n in range(len(ends))]
    sessions = [Session(f"s{n}", start * S, range(n, n + 1)) for n, (start, _) in enumerate(ends)]
    notes = CallColumns.of(len(ends))
    steps = StepRecorder(0)
    for n, (start, end) in enumerate(ends):
        notes.arrival_ns[n] = notes.admitted_ns[n] = start * S
        notes.first_token_ns[n] = start * S + S
        notes.finished(n, end * S, 60)
        notes.replica[n] = 0
    last = max(end for _, end in ends)
    for second in range(last):
        sampled = sum(start <= second < end for start, end in ends)
        steps.add(second * S, (second + 1) * S, second, second, (sampled, sampled, sampled, sampled, 0, 0, 0, 0))
    return Workload("w", 64, sessions, calls, concurrency), notes.freeze(recorded([steps]), 10)


def test_the_steady_window_leaves_out_warm_up_and_drain() -> None:
    """Two places: the second is taken at 10 s; when s1 ends at 50 s nobody is left to take its place."""
    work, recording = closed([[0, 30], [10, 50], [30, 1000]], concurrency=2)
    assert steady_window(work, recording) == (10 * S, 50 * S)
    metrics = measure(work, recording, call_times(work, recording), replicas=1, gpus=2)
    assert metrics.steady_s == 40
    assert metrics.steady_output_tokens_per_min_per_gpu == pytest.approx(2 * 60 / 2)
    assert metrics.steady_total_tokens_per_min_per_gpu == pytest.approx((80 + 2 * 600) / 40 * 60 / 2)
    assert metrics.output_tokens_per_min_per_gpu.mean < metrics.steady_output_tokens_per_min_per_gpu / 10


def test_the_steady_window_of_arrivals_ends_with_the_last() -> None:
    work, recording = closed([[0, 30], [10, 50], [40, 1000]], concurrency=None)
    assert steady_window(work, recording) == (0, 40 * S)


def test_no_steady_window_if_the_places_are_never_all_taken() -> None:
    work, recording = closed([[0, 5], [10, 50]], concurrency=2)
    assert steady_window(work, recording) == (10 * S, 10 * S)
    metrics = measure(work, recording, call_times(work, recording), replicas=1, gpus=1)
    assert metrics.steady_s == 0 and isnan(metrics.steady_output_tokens_per_min_per_gpu)


def test_queueing_is_part_of_the_time_to_first_token() -> None:
    work, recording = two_calls()
    metrics = measure(work, recording, call_times(work, recording), replicas=1, gpus=1)
    assert (metrics.queue_ms.p50, metrics.queue_ms.p90, metrics.e2e_ms.p90) == (2, 5, 200)
    assert metrics.queue_share == pytest.approx(7 / 220)


def recorded_steps(random: Random) -> list[tuple[int, int, int, int, tuple[int, ...]]]:
    now, context = 0, 10
    steps: list[tuple[int, int, int, int, tuple[int, ...]]] = []
    for _ in range(random.randrange(30)):
        now += random.choice([0, 0, 0, 5, 7])
        end = now + random.randint(1, 9)
        rows = random.choice([1, 1, 1, 2])
        context = random.choice([context + rows, context + rows, 3])
        pairs = random.choice([context, context, 99])
        steps.append((now, end, context, pairs, (rows, rows, rows, rows, random.choice([1, 1, 1, 2]), 0, 1, 0)))
        now = end
    return steps


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_runs_of_steps_lose_nothing(seed: int, count: int) -> None:
    replicas = [recorded_steps(Random(f"{seed}/{n}")) for n in range(count)]
    recorders = [StepRecorder(n) for n in range(len(replicas))]
    for recorder, steps in zip(recorders, replicas, strict=True):
        for step in steps:
            recorder.add(*step)
    table = CallColumns.of(0).freeze(recorded(recorders), 1).steps
    rows = list(zip(*(table[name].tolist() for name in STEP_FIELDS), strict=True))
    expected = [
        (n, start, end, *levels[:4], context, pairs, *levels[4:])
        for n, steps in enumerate(replicas)
        for start, end, context, pairs, levels in steps
    ]
    assert rows == expected
