"""Azure LLM inference traces (Patel et al., ISCA 2024): CSV with arrival times and lengths, without prefix hashes.

Columns: TIMESTAMP (YYYY-MM-DD HH:MM:SS.fffffff), ContextTokens, GeneratedTokens.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from ..errors import WorkloadError
from ..timebase import NS_PER_S
from ..workload.options import WorkloadOptions
from ..workload.page_hashes import NO_HASHES
from ..workload.workload import Call, Session, Workload
from .fields import integer
from .notices import Notices

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""Columns that the header must name; others are ignored."""

TIMESTAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:\+00:00|Z)?")


def read_azure(lines: Iterable[bytes], name: str, options: WorkloadOptions) -> Workload:
    """The workload in `lines`: open loop, one session per request."""
    rows = csv.DictReader(_decoded(lines, name))
    header = _header(rows, name)
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise WorkloadError(f"{name}, line 1: column {missing[0]!r} is missing; the header is {header}")
    requests: list[tuple[int, int, int]] = []
    notices = Notices(options.skip_bad)
    for row in _rows(rows, name):
        if len(requests) == options.limit:
            break
        where = f"{name}, line {rows.line_num}"
        with notices.record():
            lengths = {column: _number(row[column]) for column in COLUMNS[1:]}
            prompt = integer(lengths, "ContextTokens", where, least=1)
            output = integer(lengths, "GeneratedTokens", where)
            requests.append((_nanoseconds(row["TIMESTAMP"], where), prompt, max(output, 1)))
    notices.unused(dict.fromkeys(header), frozenset(COLUMNS))
    requests.sort(key=lambda request: request[0])
    origin = requests[0][0] if requests else 0
    calls = [Call(index, index, 0, prompt, output, NO_HASHES) for index, (_, prompt, output) in enumerate(requests)]
    sessions = [
        Session(f"request {index}", arrival - origin, range(index, index + 1))
        for index, (arrival, _, _) in enumerate(requests)
    ]
    return Workload(
        name,
        options.block_size,
        sessions,
        calls,
        options.concurrency,
        {
            "Workload": f"Azure trace, {len(calls):,} requests, open loop at the recorded times",
            "Prefix identities": "none in the trace: no two requests share blocks",
        },
        warnings=notices.warnings("lines"),
        chains_checked=True,
    )


def _header(rows: "csv.DictReader[str]", name: str) -> list[str]:
    try:
        return list(rows.fieldnames or ())
    except csv.Error as error:
        raise WorkloadError(f"{name}, line 1: not valid CSV ({error})") from error


def _rows(rows: "csv.DictReader[str]", name: str) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise WorkloadError(f"{name}, line {rows.line_num}: not valid CSV ({error})") from error


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise WorkloadError(f"{name}, line {number}: not UTF-8 text ({error.reason})") from error


def _number(text: str | None) -> int | str | None:
    """The whole number in `text`, or what is there instead, for the error that follows."""
    return int(text) if text is not None and text.strip().isascii() and text.strip().isdigit() else text


def _nanoseconds(text: str | None, where: str) -> int:
    match = TIMESTAMP.fullmatch((text or "").strip())
    try:
        if match is None:
            raise ValueError
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        raise WorkloadError(
            f"{where}: field 'TIMESTAMP' is {text!r}; it must look like 2023-11-16 18:17:03.9799600"
        ) from None
    return int(moment.timestamp()) * NS_PER_S + int((match[2] or "0").ljust(9, "0"))
