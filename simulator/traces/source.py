"""Trace files as streams of bytes, whatever they are packed in: plain, gzip, xz, bzip2, and tar inside any of these."""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from ..errors import WorkloadError

UNPACKERS: Final[dict[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
"""How to read a file that starts with these bytes."""

HEAD: Final = 64 * 1024
"""Bytes looked at to find out what a file is."""


@contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed if they are gzip, xz or bzip2 (told by their first bytes, not by the name)."""
    with path.open("rb") as raw:
        magic = raw.read(6)
        raw.seek(0)
        unpack = next((unpack for first, unpack in UNPACKERS.items() if magic.startswith(first)), None)
        try:
            yield io.BufferedReader(unpack(raw), HEAD) if unpack else raw
        except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError) as error:
            raise WorkloadError(f"{path.name} cannot be unpacked: {error}; is the file complete?") from error


def trace_source(path: Path) -> dict[str, str | int]:
    """Name, size and SHA-256 of a trace; of a folder, of its JSON files' names and hashes in order."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.json") if file.is_file())
        digest, size = hashlib.sha256(), 0
        for file in files:
            digest.update(f"{file.relative_to(path).as_posix()} {_sha256(file)}\n".encode())
            size += file.stat().st_size
        return {"file": path.name, "files": len(files), "bytes": size, "sha256": digest.hexdigest()}
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def is_tar(head: bytes) -> bool:
    """Whether bytes from the start of a file are a tar archive's."""
    return head[257:262] == b"ustar"


def tar_members(stream: io.BufferedReader) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, bytes) of the regular files of a tar archive, in their order in it, read as a stream."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content
