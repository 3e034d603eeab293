"""Reads a GGUF file: its metadata, and its tensors as memory maps that are dequantised one at a time.

The `gguf` package's own reader spends seconds on a vocabulary because it keeps every string as an array; this one
decodes the header in one pass. Types, block sizes and dequantisation are the package's.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

# Numbers of the value types, in the format's own order.
_SCALARS: Final = {number: struct.Struct("<" + code) for number, code in enumerate("BbHhIif?  Qqd") if code != " "}
_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_UINT64: Final = 10


class GGUFError(ValueError):
    """The file is not GGUF, is cut short, or holds a kind of tensor that is not supported."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. `shape` has the outermost dimension first, as in torch."""

    shape: tuple[int, ...]
    type: int
    offset: int


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def scalar(self, kind: int) -> Any:
        layout = _SCALARS[kind]
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return value

    def string(self) -> str:
        length = self.scalar(_UINT64)
        end = self.at + length
        if end > len(self.data):
            raise struct.error("a string reaches past the end of the file")
        text = str(self.data[self.at : end], "utf-8", "replace")
        self.at = end
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            element, count = self.scalar(_UINT32), self.scalar(_UINT64)
            if element in _SCALARS:
                layout = struct.Struct(f"<{count}{_SCALARS[element].format[1:]}")
                values = list(layout.unpack_from(self.data, self.at))
                self.at += layout.size
                return values
            read: Callable[[], Any] = self.string if element == _STRING else lambda: self.value(element)
            return [read() for _ in range(count)]
        if kind not in _SCALARS:
            raise GGUFError(f"metadata of type {kind} is not part of GGUF version 3")
        return self.scalar(kind)


class GGUFFile:
    """An open GGUF file of version 2 or 3, little-endian."""

    def __init__(self, path: Path) -> None:
        """Read the header of `path`. Raises GGUFError if it is not GGUF or is cut short, and OSError as `open` does."""
        self.path = path
        empty = path.stat().st_size == 0  # which cannot be mapped
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, mode="r")
        cursor = _Cursor(self._bytes.data)
        try:
            self._read_header(cursor)
        except (struct.error, OverflowError, MemoryError, RecursionError) as error:
            raise GGUFError(f"{path}: the GGUF header is damaged or cut short at byte {cursor.at}: {error}") from error

    def _read_header(self, cursor: _Cursor) -> None:
        if bytes(cursor.data[:4]) != b"GGUF":
            raise GGUFError(f"{self.path} is not a GGUF file: it begins with {bytes(cursor.data[:4])!r}, not b'GGUF'")
        cursor.at = 4
        version = cursor.scalar(_UINT32)
        if version not in (2, 3):
            raise GGUFError(f"{self.path}: GGUF version {version} is not supported: convert the file to version 3")
        tensor_count, key_count = cursor.scalar(_UINT64), cursor.scalar(_UINT64)
        self.metadata: dict[str, Any] = {}
        """Key-value pairs of the file as Python values."""
        for _ in range(key_count):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.scalar(_UINT32))
        self.tensors: dict[str, TensorInfo] = {}
        """Tensors by name."""
        for _ in range(tensor_count):
            name = cursor.string()
            if name in self.tensors:
                raise GGUFError(f"{self.path}: the GGUF header names {name} twice")
            dimensions = [cursor.scalar(_UINT64) for _ in range(cursor.scalar(_UINT32))]
            if not dimensions or min(dimensions) < 1:
                raise GGUFError(f"{self.path}: the GGUF header gives {name} the dimensions {dimensions}")
            kind, offset = cursor.scalar(_UINT32), cursor.scalar(_UINT64)
            self.tensors[name] = TensorInfo(tuple(reversed(dimensions)), kind, offset)
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise GGUFError(f"{self.path}: general.alignment={alignment!r} is not a positive integer")
        self._data_start = -(-cursor.at // alignment) * alignment
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        """Tensors that share bytes are a damaged header: each would be read as something, and nothing would fail."""
        end, before = 0, ""
        for name, info in sorted(self.tensors.items(), key=lambda item: item[1].offset):
            if info.offset < end:
                raise GGUFError(f"{self.path}: the tensors {before} and {name} overlap at byte {info.offset}")
            end, before = info.offset + self._size(name, info)[1], name

    def _size(self, name: str, info: TensorInfo) -> tuple[gguf.GGMLQuantizationType, int]:
        """The type of a tensor and its bytes. Raises GGUFError naming what is not supported."""
        try:
            kind = gguf.GGMLQuantizationType(info.type)
        except ValueError as error:
            raise GGUFError(f"{self.path}: {name} has the unknown quantisation type {info.type}") from error
        block_weights, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if info.shape[-1] % block_weights:
            raise GGUFError(f"{self.path}: {name} has rows of {info.shape[-1]} weights, not whole {kind.name} blocks")
        return kind, math.prod(info.shape) // block_weights * block_bytes

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The tensor `name` as float32 in its own shape. Raises KeyError, or GGUFError naming what is not supported."""
        info = self.tensors[name]
        kind, size = self._size(name, info)
        start = self._data_start + info.offset
        end = start + size
        if end > len(self._bytes):
            raise GGUFError(f"{self.path} is cut short: {name} ends at byte {end} of {len(self._bytes)}")
        rows = self._bytes[start:end].reshape(*info.shape[:-1], -1)
        try:
            values = gguf.quants.dequantize(rows, kind)
        except NotImplementedError as error:
            raise GGUFError(
                f"{self.path}: {name} is quantised as {kind.name}, which is not supported: "
                "requantise the file, for example to Q8_0 or Q4_1"
            ) from error
        # Unquantised tensors are views of the read-only map; torch needs arrays that may be written.
        return np.require(values, np.float32, ["C", "W"]).reshape(info.shape)
