"""The driver contract: typed errors for misuse, nothing changed by a refused call, arrays as documented."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenspeed.scheduler import (
    CONTRACT_HASH,
    SPEC_HASH,
    BadResults,
    DuplicateRequest,
    EventKind,
    Scheduler,
    SchedulerConfig,
    SpecMismatch,
    StepPlan,
    UnknownRequest,
    UnknownStep,
)
from tokenspeed.simulator.world import replica as simulator_replica


def tokens(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def prompt(length: int, first: int = 1) -> NDArray[np.int32]:
    return np.arange(first, first + length, dtype=np.int32)


def small(**changes: object) -> Scheduler:
    settings: dict[str, object] = {
        "num_blocks": 16,
        "block_size": 4,
        "max_running": 4,
        "max_step_tokens": 16,
        "overlap_depth": 0,
    }
    return Scheduler(SchedulerConfig(**(settings | changes)))  # type: ignore[arg-type]


def planned(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan()
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_blocks", 0),
        ("block_size", 0),
        ("max_running", 0),
        ("overlap_depth", -1),
        ("max_step_tokens", 3),
        ("overlap_depth", 65),
    ],
)
def test_config_names_the_bad_field_and_value(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}"):
        small(**{field: value})


def test_driver_for_another_specification_is_refused() -> None:
    with pytest.raises(SpecMismatch, match="0000"):
        Scheduler(SchedulerConfig(num_blocks=4), spec_hash="0000")
    assert CONTRACT_HASH == SPEC_HASH, "the drivers here are written for the specification of the binary"


def test_the_simulator_names_its_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator_replica, "CONTRACT_HASH", "0000")
    with pytest.raises(SpecMismatch, match="0000"):
        simulator_replica.Replica(None, 0, SchedulerConfig(num_blocks=4), None, 0, None, None)  # type: ignore[arg-type]


def test_submit_rejects_what_can_never_fit_and_says_why() -> None:
    scheduler = small()
    assert scheduler.submit(1, prompt(60), 5)  # 64 tokens of KV: the last output token needs none
    result = scheduler.submit(2, prompt(60), 6)
    assert not result.accepted
    assert "17 KV blocks" in result.reason and "the pool has 16" in result.reason
    with pytest.raises(UnknownRequest):
        scheduler.abort(2)


def test_submit_errors_name_the_field() -> None:
    scheduler = small()
    with pytest.raises(ValueError, match=r"tokens\[1\] is -5"):
        scheduler.submit(1, tokens(3, -5), 1)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        scheduler.submit(1, tokens(3), 0)
    with pytest.raises(ValueError, match="prompt has 0 tokens"):
        scheduler.submit(1, tokens(), 1)
    with pytest.raises(ValueError, match="2 dimensions"):
        scheduler.submit(1, np.zeros((2, 2), dtype=np.int32), 1)
    with pytest.raises(ValueError, match="page_hashes has 3 entries"):
        scheduler.submit_hashed(1, 8, np.zeros(3, dtype=np.uint64), 1)
    assert scheduler.submit(1, tokens(3), 1)
    with pytest.raises(DuplicateRequest, match="request 1"):
        scheduler.submit(1, tokens(4), 1)


def test_plan_arrays_of_a_prompt_in_chunks() -> None:
    scheduler = small()
    scheduler.submit(7, prompt(21), 2)
    first = planned(scheduler)
    assert (first.step, first.rows, first.tokens, first.decode_rows, first.sampling_rows) == (1, 1, 16, 0, 0)
    assert first.request_ids.tolist() == [7]
    assert first.start.tolist() == [0] and first.num_tokens.tolist() == [16] and first.outputs.tolist() == [0]
    assert first.input_ids.tolist() == list(range(1, 17))
    assert first.positions.tolist() == list(range(16))
    assert first.table_index.tolist() == [0, 1, 2, 3]
    assert set(first.table_slots.tolist()) == {int(first.slots[0])}
    assert len(set(first.table_blocks.tolist())) == 4
    assert (first.context_tokens, first.attention_pairs) == (16, 16 * 17 // 2)
    scheduler.land(first.step, tokens())
    second = planned(scheduler)
    assert second.start.tolist() == [16] and second.num_tokens.tolist() == [5] and second.outputs.tolist() == [1]
    assert second.attention_pairs == sum(range(17, 22))
    scheduler.land(second.step, tokens(99))
    third = planned(scheduler)
    assert third.decode_rows == 1 and third.input_ids.tolist() == [99] and third.positions.tolist() == [21]
    scheduler.land(third.step, tokens(100))
    assert scheduler.events()[-1] == (EventKind.FINISHED, 7, 2)
    assert scheduler.plan() is None


def test_overlapped_decode_takes_the_token_that_is_being_sampled() -> None:
    scheduler = small(overlap_depth=1)
    scheduler.submit(1, prompt(3), 3)
    first, second = planned(scheduler), planned(scheduler)
    assert scheduler.plan() is None, "only overlap_depth + 1 steps may be in flight"
    assert second.input_ids.tolist() == [-1] and second.positions.tolist() == [3]
    scheduler.land(first.step, tokens(50))
    third = planned(scheduler)
    assert third.input_ids.tolist() == [-1] and third.positions.tolist() == [4]
    scheduler.land(second.step, tokens(51))
    assert scheduler.plan() is None, "the third output token needs no step of its own"
    scheduler.land(third.step, tokens(52))
    assert scheduler.events()[-1] == (EventKind.FINISHED, 1, 3)


def test_plan_arrays_are_read_only_and_outlive_the_step() -> None:
    scheduler = small()
    scheduler.submit(1, prompt(8), 20)
    plan = planned(scheduler)
    ids = plan.input_ids
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 5
    step = plan.step
    del plan
    for _ in range(10):
        scheduler.land(step, tokens(1))
        gc.collect()
        step = planned(scheduler).step
    assert ids.tolist() == list(range(1, 9)), "a view that somebody holds is never overwritten"


@pytest.mark.parametrize("overlap_depth", [0, 1])
def test_misuse_of_land_changes_nothing(overlap_depth: int) -> None:
    scheduler = small(overlap_depth=overlap_depth)
    with pytest.raises(UnknownStep, match="no step is in flight"):
        scheduler.land(1, tokens())
    scheduler.submit(1, prompt(3), 5)
    plan = planned(scheduler)
    later = scheduler.plan()
    before = scheduler.snapshot()
    for step in (0, -1, plan.step + 1, 2**40):
        with pytest.raises(UnknownStep, match=f"oldest step in flight is {plan.step}"):
            scheduler.land(step, tokens(1))
    for bad in (tokens(), tokens(1, 2)):
        with pytest.raises(BadResults, match="1 sampling rows"):
            scheduler.land(plan.step, bad)
    with pytest.raises(BadResults, match=r"tokens\[0\] is -3"):
        scheduler.land(plan.step, tokens(-3))
    with pytest.raises(BadResults, match="stop has 2"):
        scheduler.land(plan.step, tokens(1), stop=np.array([True, False]))
    assert scheduler.snapshot() == before
    scheduler.land(plan.step, tokens(1))
    with pytest.raises(UnknownStep):
        scheduler.land(plan.step, tokens(1))
    if later is not None:
        scheduler.land(later.step, tokens(1))
    scheduler.check()


def test_abort_of_an_unknown_request_is_an_error_that_harms_nobody() -> None:
    scheduler = small()
    scheduler.submit(1, prompt(3), 2)
    for request_id in (0, 2, -1):
        with pytest.raises(UnknownRequest, match=f"request {request_id}"):
            scheduler.abort(request_id)
    scheduler.abort(1)
    with pytest.raises(UnknownRequest):
        scheduler.abort(1)


def test_blocks_of_an_aborted_request_wait_for_the_step_in_flight() -> None:
    scheduler = small(overlap_depth=1)
    scheduler.submit(1, prompt(8), 5)
    plan = planned(scheduler)
    scheduler.abort(1)
    assert scheduler.stats().held_blocks == 2, "the device may still touch them"
    assert scheduler.stats().live_requests == 1, "the record is not reused while the step mentions it"
    scheduler.land(plan.step, tokens(9))
    stats = scheduler.stats()
    assert (stats.held_blocks, stats.live_requests, stats.aborted) == (0, 0, 1)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_misuse_never_breaks_the_scheduler(data: st.DataObject) -> None:
    scheduler = small(overlap_depth=data.draw(st.integers(0, 1)), num_blocks=6)
    integers = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 8)
    errors = (UnknownRequest, UnknownStep, BadResults, DuplicateRequest, ValueError)
    for _ in range(data.draw(st.integers(1, 30))):
        call = data.draw(st.sampled_from(["submit", "abort", "plan", "land", "hashed"]))
        try:
            if call == "submit":
                values = data.draw(st.lists(integers, max_size=9))
                scheduler.submit(data.draw(integers), np.array(values, dtype=np.int32), data.draw(integers))
            elif call == "hashed":
                pages = np.array(data.draw(st.lists(st.integers(0, 3), max_size=4)), dtype=np.uint64)
                scheduler.submit_hashed(data.draw(integers), data.draw(integers), pages, data.draw(integers))
            elif call == "abort":
                scheduler.abort(data.draw(integers))
            elif call == "plan":
                scheduler.plan()
            else:
                results = np.array(data.draw(st.lists(integers, max_size=3)), dtype=np.int32)
                scheduler.land(data.draw(integers), results)
        except errors:
            pass
        scheduler.check()
