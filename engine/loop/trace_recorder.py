"""Streams a scheduler's trace to a file on a thread of its own, so that the control loop never waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path

from ...scheduler import Scheduler
from ...scheduler.trace_file import file_footer, file_header

logger = logging.getLogger(__name__)


class TraceRecorder:
    """Records `scheduler` into the file `path`. The control loop calls `poll` and, at the end, `close`.

    Memory is bounded: while `most_waiting` bytes wait for the disk, events stay in the scheduler's buffer, and when
    that is full too they are counted as lost; the file says where and how many. If the disk fails, recording ends and
    the engine goes on.

    Raises OSError if the file cannot be made.
    """

    def __init__(self, path: Path, scheduler: Scheduler, most_waiting: int = 64 * 2**20) -> None:
        self._path = path
        self._scheduler = scheduler
        self._most_waiting = most_waiting
        self._file = path.open("wb", buffering=0)
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._failed = False
        self._put(file_header(scheduler))
        self._thread = threading.Thread(target=self._write, name="tokenspeed-trace", daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Hand over what was recorded since the last call. Takes microseconds."""
        if self._waiting <= self._most_waiting and not self._failed:
            self._put(self._scheduler.drain_trace_records())

    def close(self, timeout: float | None = 5.0) -> None:
        """Hand over the rest and the scheduler's state, and wait up to `timeout` seconds for the disk."""
        if not self._failed:
            self._put(self._scheduler.drain_trace_records())
            self._put(file_footer(self._scheduler))
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the trace %s is not complete: the disk did not take it within %s s", self._path, timeout)

    def _put(self, data: bytes) -> None:
        if data:
            with self._lock:
                self._waiting += len(data)
            self._queue.put(data)

    def _write(self) -> None:
        with self._file:
            while (data := self._queue.get()) is not None:
                if not self._failed:
                    try:
                        rest = memoryview(data)
                        while rest:
                            rest = rest[self._file.write(rest) :]
                    except OSError as error:
                        self._failed = True
                        logger.error("the trace %s ends here, serving goes on: %s", self._path, error.strerror)
                with self._lock:
                    self._waiting -= len(data)
