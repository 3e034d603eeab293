"""Find out from a file's content which trace format it is, and read it."""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from ..errors import WorkloadError
from ..workload.options import WorkloadOptions
from ..workload.workload import Workload
from .azure import COLUMNS, read_azure
from .claude_code import read_claude_code
from .mooncake import is_mooncake, read_mooncake
from .source import HEAD, is_tar, open_unpacked, tar_members

FORMATS: Final = (
    "Claude Code sessions (JSON objects with requests: one file, a folder or tar of files, or one a line), Mooncake "
    "(JSON lines with input_length, output_length, timestamp, hash_ids and perhaps session_id) and Azure (CSV with "
    f"{', '.join(COLUMNS)}), each plain or in gzip, xz or bzip2"
)


def read_trace(path: Path, options: WorkloadOptions) -> Workload:
    """The workload in the file or folder `path`, in any known format and packing.

    Raises WorkloadError naming the line or session and the field that cannot be read.
    """
    name = path.name.encode("utf-8", "replace").decode()
    if path.is_dir():
        return read_claude_code(_files(path, name), name, options)
    with open_unpacked(path) as stream:
        head = stream.peek(HEAD)
        if is_tar(head):
            members = ((member, content) for member, content in tar_members(stream) if member.endswith(".json"))
            return read_claude_code(members, name, options)
        first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
        if first_line.startswith(b"{"):
            record = _object(first_line)
            if record is None or ("requests" in record and _is_only_line(head)):
                return read_claude_code([(name, stream)], name, options)
            if "requests" in record:
                return read_claude_code(_sessions(stream, name), name, options)
            if is_mooncake(record):
                return read_mooncake(stream, name, options)
        elif any(column.encode() in first_line for column in COLUMNS):
            return read_azure(stream, name, options)
    shown = first_line[:60].decode("utf-8", "replace")
    raise WorkloadError(f"{name} is in no known trace format (it starts with {shown!r}); known: {FORMATS}")


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object that the line is, or None if it is only the start of one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {"input_length": None} if b'"input_length"' in line else None
    return record if isinstance(record, dict) else None


def _is_only_line(head: bytes) -> bool:
    return not head.strip().partition(b"\n")[2].strip()


def _sessions(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """One session a line."""
    return ((f"{name}, line {number}", io.BytesIO(line)) for number, line in enumerate(lines, 1) if line.strip())


def _files(folder: Path, name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The JSON files below a folder, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*.json") if path.is_file())
    if not paths:
        raise WorkloadError(
            f"workload {name!r} is a folder without JSON files; give a trace file or a folder of sessions"
        )
    for path in paths:
        with path.open("rb") as content:
            yield path.relative_to(folder).as_posix(), content
