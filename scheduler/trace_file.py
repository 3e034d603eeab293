"""Writes what a scheduler does into a trace file (`.tstrace`), which `tokenspeed verify trace` checks.

docs/trace-format.md describes every byte.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

from ._core import Scheduler

MAGIC: Final = b"TSTRACE\n"
VERSION: Final = 1
RECORD: Final = 16
"""Bytes of a record."""
CLOSE: Final = 0xFD
"""Kind of the last record."""


def file_header(scheduler: Scheduler) -> bytes:
    """What comes before the records: magic, version, length and JSON, padded so that records are aligned."""
    text = json.dumps(scheduler.trace_header()).encode()
    prefix = len(MAGIC) + 8
    text += b" " * (-(prefix + len(text)) % RECORD)
    return MAGIC + struct.pack("<II", VERSION, len(text)) + text


def file_footer(scheduler: Scheduler) -> bytes:
    """What comes after the records: the closing record and JSON. Drain the records first."""
    footer = scheduler.trace_footer()
    text = json.dumps(footer).encode()
    return struct.pack("<BBHI8x", CLOSE, 0, footer["events"] & 0xFFFF, len(text)) + text


class TraceFile:
    """A trace file that is written to by the caller's thread.

    `scheduler` must have been made with `record_trace=True` and not have done anything yet. Raises OSError if the file
    cannot be written.
    """

    def __init__(self, path: Path, scheduler: Scheduler) -> None:
        if not scheduler.config.record_trace:
            raise ValueError("the scheduler records nothing; make it with record_trace=True")
        self._scheduler = scheduler
        self._file = path.open("wb")
        self._file.write(file_header(scheduler))

    def append(self) -> None:
        """Write what was recorded since the last call. Call it often: the scheduler's buffer is bounded."""
        self._file.write(self._scheduler.drain_trace_records())

    def close(self) -> None:
        """Write the rest and the state that the scheduler is in."""
        with self._file:
            self.append()
            self._file.write(file_footer(self._scheduler))


__all__ = ["TraceFile", "file_footer", "file_header"]
