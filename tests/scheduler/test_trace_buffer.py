"""The trace buffer: what it keeps, how large arguments are written, and what it says when it is full."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tokenspeed.scheduler import TRANSITIONS, Scheduler, SchedulerConfig, TraceOverflow

LARGE = 2**30
"""The longest output that the scheduler accepts, tokens."""


def make(capacity: int = 64, record: bool = True) -> Scheduler:
    return Scheduler(
        SchedulerConfig(num_blocks=8, block_size=2**28, max_running=2, record_trace=record, trace_capacity=capacity)
    )


def submit(scheduler: Scheduler, request: int, most: int = 1) -> None:
    assert scheduler.submit_hashed(request, 5, np.zeros(0, dtype=np.uint64), most)


def test_nothing_is_recorded_unless_asked_for() -> None:
    scheduler = make(record=False)
    submit(scheduler, 0)
    assert scheduler.drain_trace_records() == b"" and len(scheduler.drain_trace()) == 0
    assert scheduler.trace_footer()["events"] == 0


def test_a_record_is_as_documented() -> None:
    scheduler = make()
    submit(scheduler, 7, 300)
    number = TRANSITIONS.index("submit")
    low = b"".join(x.to_bytes(3, "little") for x in (0, 5, 305, 1))
    assert scheduler.drain_trace_records() == struct.pack("<BBH", number, 4, 0) + low
    submit(scheduler, 8)
    assert scheduler.drain_trace_records()[:4] == struct.pack("<BBH", number, 4, 1)
    assert scheduler.drain_trace_records() == b""


def test_large_arguments_take_two_records() -> None:
    scheduler = make()
    submit(scheduler, 0, LARGE)
    number = TRANSITIONS.index("submit")
    most = LARGE + 5
    wide = struct.pack("<BBH", 0xFF, 4, 0) + b"".join(x.to_bytes(3, "little") for x in (0, 0, most >> 24, 0))
    low = b"".join(x.to_bytes(3, "little") for x in (0, 5, most & 0xFFFFFF, 1))
    assert scheduler.drain_trace_records() == wide + struct.pack("<BBH", number, 0x84, 0) + low
    submit(scheduler, 1, LARGE)
    assert scheduler.drain_trace().tolist() == [[number, 4, 1, 5, most, 2]]


def test_a_full_buffer_counts_what_it_loses() -> None:
    scheduler = make(capacity=4)
    for request in range(6):
        submit(scheduler, request)
    records = scheduler.drain_trace_records()
    assert len(records) == 5 * 16
    assert records[64:] == struct.pack("<BBHQI", 0xFE, 0, 4, 2, 0)
    submit(scheduler, 6)
    assert scheduler.drain_trace_records()[2:4] == struct.pack("<H", 6)
    assert {k: scheduler.trace_footer()[k] for k in ("events", "lost")} == {"events": 7, "lost": 2}


def test_an_event_of_two_records_is_lost_whole_and_all_after_it() -> None:
    scheduler = make(capacity=2)
    submit(scheduler, 0)
    submit(scheduler, 1, LARGE)
    submit(scheduler, 2)
    records = scheduler.drain_trace_records()
    assert len(records) == 32 and records[16:] == struct.pack("<BBHQI", 0xFE, 0, 1, 2, 0)


def test_drain_trace_does_not_hide_a_loss() -> None:
    scheduler = make(capacity=2)
    for request in range(3):
        submit(scheduler, request)
    with pytest.raises(TraceOverflow, match=r"lacks 1 events in all; .* raise trace_capacity \(now 2 records\)"):
        scheduler.drain_trace()


def test_the_buffer_needs_room_for_one_event() -> None:
    with pytest.raises(ValueError, match="trace_capacity is 1; it must be at least 2"):
        make(capacity=1)


def test_the_footer_changes_with_the_state() -> None:
    scheduler = make()
    before = scheduler.trace_footer()["state"]
    submit(scheduler, 0)
    after = scheduler.trace_footer()["state"]
    changed = {name for name in after if before.get(name, 0) != after[name]}
    assert changed == {"request_state", "arrival", "prompt", "limit", "known", "newest_arrival"}
