"""Find out from a file's content which trace format it is, and read it."""

import json
from pathlib import Path
from typing import Final

from ..errors import WorkloadError
from ..workload.options import WorkloadOptions
from ..workload.workload import Workload
from .azure import COLUMNS, read_azure
from .claude_code import read_claude_code
from .mooncake import read_mooncake
from .source import HEAD, is_tar, open_unpacked, tar_members

FORMATS: Final = (
    "Claude Code sessions (JSON, or a tar of JSON files), Mooncake (JSON lines with timestamp, input_length, "
    f"output_length and hash_ids) and Azure (CSV with {', '.join(COLUMNS)}), each plain or in gzip, xz or bzip2"
)


def read_trace(path: Path, options: WorkloadOptions) -> Workload:
    """The workload in the file `path`, in any known format and packing.

    Raises WorkloadError naming the line or session and the field that cannot be read.
    """
    if path.is_dir():
        raise WorkloadError(
            f"workload {str(path)!r} is a folder; give one file (a tar of JSON files for many sessions)"
        )
    name = path.name.encode("utf-8", "replace").decode()
    with open_unpacked(path) as stream:
        head = stream.peek(HEAD)
        if is_tar(head):
            members = ((member, content) for member, content in tar_members(stream) if member.endswith(".json"))
            return read_claude_code(members, name, options)
        first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0]
        if first_line.startswith(b"{"):
            if _is_mooncake(first_line):
                return read_mooncake(stream, name, options)
            return read_claude_code([(name, stream)], name, options)
        if any(column.encode() in first_line for column in COLUMNS):
            return read_azure(stream, name, options)
    shown = first_line[:60].decode("utf-8", "replace")
    raise WorkloadError(f"{name} is in no known trace format (it starts with {shown!r}); known: {FORMATS}")


def _is_mooncake(line: bytes) -> bool:
    """Whether a first line that opens a JSON object is one request rather than a session."""
    if b'"input_length"' in line:
        return True
    try:
        return "requests" not in json.loads(line)
    except (ValueError, RecursionError):
        return False  # an object over several lines, or too long to be one request
