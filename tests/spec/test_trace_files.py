"""`tokenspeed verify trace`: what it says of good, wrong, damaged and foreign files, and its exit status."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tokenspeed.cli import main
from tokenspeed.scheduler import Scheduler, SchedulerConfig
from tokenspeed.scheduler import trace_file as writer
from tokenspeed.scheduler.trace_file import TraceFile
from tokenspeed.spec.conform import trace_file as reader
from tokenspeed.spec.conform._replay import UNCHECKED_GUARDS
from tokenspeed.spec.conform.trace_file import read_header
from tokenspeed.spec.system import SPEC

NUMBER = {name: number for number, name in enumerate(SPEC.transitions)}


def verify(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify", "trace", str(path), *arguments])


def record(path: Path, steps: int = 4, capacity: int = 1 << 12) -> None:
    """A few steps of two requests that never finish nor fill a block, so that the state at the end says something."""
    config = SchedulerConfig(
        num_blocks=16, block_size=16, max_running=2, max_step_tokens=8, record_trace=True, trace_capacity=capacity
    )
    scheduler = Scheduler(config)
    trace = TraceFile(path, scheduler)
    for request, prompt in enumerate((6, 3)):
        scheduler.submit(request, np.zeros(prompt, dtype=np.int32), 20)
    for _ in range(steps):
        plan = scheduler.plan()
        assert plan is not None
        scheduler.land(plan.step, np.zeros(plan.sampling_rows, dtype=np.int32))
    trace.close()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "run.tstrace"
    record(path)
    return path


def size_of_header(data: bytes | bytearray) -> int:
    return read_header(bytes(data), SPEC).size


def count(data: bytes) -> int:
    """Events of a file without arguments of more than 24 bits."""
    start = size_of_header(data)
    return (data.index(b"\xfd\x00", start) - start) // 16


def test_writer_and_reader_mean_the_same_format() -> None:
    """Both say it themselves, so that a mistake of one is not a mistake of the other."""
    for name in ("MAGIC", "VERSION", "RECORD"):
        assert getattr(writer, name) == getattr(reader, name), name


def test_a_recording_is_allowed(trace: Path) -> None:
    result = verify(trace)
    assert result.exit_code == 0
    assert f"Allowed: all {count(trace.read_bytes())} events, and the state at the end" in result.stdout
    report = json.loads(verify(trace, "--json").stdout)
    assert report["allowed"] is True and report["spec"] == SPEC.digest()


def test_every_guard_is_checked() -> None:
    assert UNCHECKED_GUARDS == ()


def test_the_first_bad_event_is_explained(trace: Path) -> None:
    data = bytearray(trace.read_bytes())
    start = size_of_header(data)
    at = next(i for i in range(start, len(data), 16) if data[i] == NUMBER["launch"])
    event = (at - start) // 16
    data[at] = NUMBER["retire"]
    trace.write_bytes(data)
    result = verify(trace)
    assert result.exit_code == 1
    output = " ".join(result.stdout.split())
    assert f"NOT ALLOWED: event {event}, retire(s0), at offset {at}" in output
    assert "False guard: step DONE: step_state(s) = DONE step_state(s0) = PLANNED" in output
    assert "open_step(s0)" in output and "not allowed: step DONE" in output
    report = json.loads(verify(trace, "--json").stdout)
    assert (report["number"], report["offset"], report["guard"]) == (event, at, "step DONE")
    assert [moment["event"].split("(")[0] for moment in report["context"]][-1] == "retire"
    assert len(report["context"]) == min(20, event + 1)


def test_a_missing_last_event_is_found(trace: Path) -> None:
    data = trace.read_bytes()
    events = count(data)
    end = size_of_header(data) + 16 * events
    footer = bytearray(data[end:])
    footer[2:4] = struct.pack("<H", events - 1)
    trace.write_bytes(data[: end - 16] + footer)
    result = verify(trace)
    assert result.exit_code == 1
    assert f"the scheduler took {events} events, the file has {events - 1}" in " ".join(result.stdout.split())


def test_another_state_at_the_end_is_found(trace: Path) -> None:
    data = trace.read_bytes()
    place = data.rindex(b'"known": ') + len(b'"known": ')
    digit = data[place : place + 1]
    trace.write_bytes(data[:place] + (b"1" if digit != b"1" else b"2") + data[place + 1 :])
    result = verify(trace)
    assert result.exit_code == 1
    assert "the scheduler ended in another state: known differ" in " ".join(result.stdout.split())


def test_events_that_were_lost_are_told(tmp_path: Path) -> None:
    path = tmp_path / "lost.tstrace"
    record(path, capacity=10)
    result = verify(path)
    assert result.exit_code == 2
    assert "events were lost here, from event 10 on; the 10 events before are allowed" in result.stderr


def with_limits(data: bytes, start: int, **changes: int) -> bytes:
    header = json.loads(data[16:start])
    text = json.dumps(header | {"limits": header["limits"] | changes}).encode()
    return data[:12] + struct.pack("<I", len(text)) + text + data[start:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, start: b"", "offset 0: the file does not begin with the magic bytes of a trace"),
        (lambda d, start: b"x" + d[1:], "offset 0: the file does not begin with the magic bytes of a trace"),
        (lambda d, start: d[:8] + b"\x02" + d[9:], "offset 8: the format has version 2, this program reads version 1"),
        (lambda d, start: d[:60], "offset 12: the header has"),
        (lambda d, start: d[:16] + b"[" + d[17:], "offset 16: the header is no JSON"),
        (
            lambda d, start: d.replace(SPEC.digest().encode(), b"0" * 64),
            "the scheduler followed specification 00000000",
        ),
        (lambda d, start: d.replace(b'"page": 16', b'"page":-16'), "the header's limits are {'page': -16"),
        (lambda d, start: d.replace(b'"page": 16', b'"pace": 16'), "the header's limits lack page"),
        (lambda d, start: d.replace(b'"blocks": 16', b'"blocks":9e9'), "the header's limits are"),
        (lambda d, start: with_limits(d, start, step_records=2**24 + 1), "16777217 individuals of Step, a trace at"),
        (lambda d, start: d[: start + 16 * 7], "the file ends without its closing record; the 7 events before are"),
        (lambda d, start: d[: start + 16 * 7 + 5], "the file ends in the middle of a record (5 bytes)"),
        (lambda d, start: d[:-1], "the closing text has"),
        (lambda d, start: d[: start + 32] + b"\xee" + d[start + 33 :], "event 2 is damaged: unknown transition 238"),
        (lambda d, start: d[: start + 32] + b"\xff" + d[start + 33 :], "high parts of arguments are not followed by"),
        (lambda d, start: d[: start + 33] + b"\x07" + d[start + 34 :], "event 2 is damaged: flags are 7"),
        (lambda d, start: d[: start + 34] + b"\x09" + d[start + 35 :], "event 2 is damaged: sequence number 9"),
        (lambda d, start: d[: start + 37] + b"\x01" + d[start + 38 :], "Request has 2 individuals"),
        (lambda d, start: d[: start + 47] + b"\x01" + d[start + 48 :], "argument 4 is given but not expected"),
    ],
)
def test_damaged_files_are_refused(trace: Path, damage: object, message: str) -> None:
    data = trace.read_bytes()
    assert callable(damage)
    trace.write_bytes(damage(data, size_of_header(data)))
    result = verify(trace)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert result.stdout == ""


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = verify(tmp_path / "none")
    assert result.exit_code == 2 and "No such file" in result.stderr
