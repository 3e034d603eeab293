"""Recording while serving: the file is a behaviour of the specification, and the disk never stops the loop."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from support import stand_ins as serving
from tokenspeed.engine.loop.trace_recorder import TraceRecorder
from tokenspeed.scheduler import Scheduler, SchedulerConfig
from tokenspeed.spec.conform.trace_file import TraceFileError, Validator
from tokenspeed.spec.system import SPEC


def small_scheduler(capacity: int = 1 << 12) -> Scheduler:
    return Scheduler(SchedulerConfig(num_blocks=64, block_size=4, record_trace=True, trace_capacity=capacity))


def submit(scheduler: Scheduler, request: int) -> None:
    assert scheduler.submit(request, np.zeros(5, dtype=np.int32), 3)


def test_a_control_loop_records_what_it_does(tmp_path: Path) -> None:
    path = tmp_path / "run.tstrace"
    config = serving.small_config(num_blocks=12, max_running=4, record_trace=True)
    engine = serving.LoopHarness(config, trace=lambda scheduler: TraceRecorder(path, scheduler))
    for number in range(12):
        engine.submit(number, b"aaaabbbbcccc", max_tokens=6)
    engine.wait(*range(12))
    engine.close()
    verdict = Validator(SPEC, path).run()
    assert verdict.false == "" and verdict.events == engine.scheduler.trace_footer()["events"] > 300


def test_a_slow_disk_costs_events_but_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    scheduler = small_scheduler(capacity=8)
    read = threading.Event()
    data: list[bytes] = []

    def reader() -> None:
        with path.open("rb") as file:
            read.wait(30)
            data.append(file.read())

    thread = threading.Thread(target=reader)
    thread.start()
    recorder = TraceRecorder(path, scheduler, most_waiting=-1)  # as if the disk were always behind
    for request in range(11):
        submit(scheduler, request)
        recorder.poll()
    read.set()
    recorder.close()
    thread.join()
    copy = tmp_path / "copy.tstrace"
    copy.write_bytes(data[0])
    with pytest.raises(TraceFileError, match="3 events were lost here, from event 8 on"):
        Validator(SPEC, copy).run()


def test_a_disk_that_fails_ends_the_recording_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    scheduler = small_scheduler()
    recorder = TraceRecorder(full, scheduler)
    submit(scheduler, 0)
    recorder.poll()
    recorder.close()
    submit(scheduler, 1)
    recorder.poll()
    assert "the trace /dev/full ends here, serving goes on: No space left on device" in caplog.text


def test_the_file_must_be_writable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TraceRecorder(tmp_path / "none" / "run.tstrace", small_scheduler())


def test_records_are_handed_over_while_the_loop_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.tstrace"
    scheduler = small_scheduler()
    recorder = TraceRecorder(path, scheduler)
    submit(scheduler, 0)
    recorder.poll()
    assert scheduler.drain_trace_records() == b""
    recorder.close()
    data = path.read_bytes()
    (header,) = struct.unpack_from("<I", data, 12)
    assert data[16 + header + 16] == 0xFD
