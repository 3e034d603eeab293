"""Formats of quantised weights, widened when they are read.

A format stands before the tensors of a checkpoint and shows each quantised weight as one tensor of its true shape. It
reads no more than the slice that is asked for, widened to the blocks or bytes that hold it, so that a rank's part needs
not begin or end where a block does.
"""

from __future__ import annotations

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from ..models.fields import UnsupportedModel
from .tensors import Ranges, Tensors

_E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of a 4-bit float by its lower three bits; the fourth is the sign."""


class Widened(ABC):
    """Tensors, of which those that are quantised are shown widened."""

    label = ""
    """What messages call the format."""
    marker = ""
    """What ends the name of the tensor that a quantised weight is known by."""
    companions: tuple[str, ...] = ()
    """What may be beside it."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._quantized = {name.removesuffix(self.marker) + ".weight" for name in tensors if name.endswith(self.marker)}
        hidden = (self.marker, *self.companions)
        self._plain = {
            name
            for name in tensors
            if name not in self._quantized
            and not any(name.endswith(end) and name.removesuffix(end) + ".weight" in self._quantized for end in hidden)
        }

    def __contains__(self, name: object) -> bool:
        return name in self._plain or name in self._quantized

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._quantized

    @property
    def count(self) -> int:
        """How many tensors are quantised."""
        return len(self._quantized)

    def where(self, name: str) -> str:
        """See `Tensors`."""
        return self._tensors.where(name.removesuffix(".weight") + self.marker if name in self._quantized else name)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors`."""
        if name not in self._quantized:
            return self._tensors.shape(name)
        return self._shape(name.removesuffix(".weight"))

    def slice(self, name: str, ranges: Ranges) -> torch.Tensor:
        """See `Tensors`; float32 if quantised. Raises UnsupportedModel naming the tensor whose parts do not fit."""
        if name not in self._quantized:
            return self._tensors.slice(name, ranges)
        if len(ranges) != 2:
            raise UnsupportedModel(f"{self.where(name)}: a weight in {self.label} must be a matrix")
        return self._widen(name.removesuffix(".weight"), *ranges)

    def _part(self, name: str, rows: range, columns: range, *, of: tuple[int, int]) -> torch.Tensor:
        """A slice of a companion, whose shape must be `of`. Raises UnsupportedModel naming it."""
        if name not in self._tensors:
            raise UnsupportedModel(f"the checkpoint lacks the tensor {name}, which {self.label} needs")
        if self._tensors.shape(name) != of:
            found = self._tensors.shape(name)
            raise UnsupportedModel(f"{self._tensors.where(name)} has shape {found}; {self.label} needs {of}")
        return self._tensors.slice(name, (rows, columns))

    @abstractmethod
    def _shape(self, stem: str) -> tuple[int, ...]:
        """The true shape of the weight."""

    @abstractmethod
    def _widen(self, stem: str, rows: range, columns: range) -> torch.Tensor:
        """A slice of the weight as float32."""


def _blocks(r: range, size: int) -> range:
    """The blocks of `size` that hold `r`."""
    return range(r.start // size, -(-r.stop // size))


def _spread(scale: torch.Tensor, dim: int, r: range, size: int) -> torch.Tensor:
    """The scale of each of `r` along `dim`, from those of its blocks."""
    start = r.start // size * size
    return scale.repeat_interleave(size, dim).narrow(dim, r.start - start, len(r))


class Fp8Blocks(Widened):
    """DeepSeek-V3's format: e4m3 and a scale for each block of rows and columns, with which it is multiplied."""

    label, marker = "FP8 blocks", ".weight_scale_inv"

    def __init__(self, tensors: Tensors, block: tuple[int, int]) -> None:
        super().__init__(tensors)
        self._block = block

    def _shape(self, stem: str) -> tuple[int, ...]:
        return self._tensors.shape(f"{stem}.weight")

    def _widen(self, stem: str, rows: range, columns: range) -> torch.Tensor:
        high, wide = self._block
        out, into = self._shape(stem)
        scale = self._part(
            f"{stem}.weight_scale_inv",
            _blocks(rows, high),
            _blocks(columns, wide),
            of=(-(-out // high), -(-into // wide)),
        ).float()
        values = self._tensors.slice(f"{stem}.weight", (rows, columns))
        if values.dtype != torch.float8_e4m3fn:
            raise UnsupportedModel(f"{self._tensors.where(f'{stem}.weight')} is {values.dtype}, not float8_e4m3fn")
        return values.float() * _spread(_spread(scale, 0, rows, high), 1, columns, wide)


class PackedInt4(Widened):
    """compressed-tensors' pack-quantized: eight signed 4-bit numbers in an int32, the first in its lowest bits, stored
    with 8 added, and a scale for each group of columns."""

    label, marker = "packed INT4", ".weight_packed"
    companions = (".weight_scale", ".weight_shape")

    def __init__(self, tensors: Tensors, group: int) -> None:
        super().__init__(tensors)
        self._group = group

    def _shape(self, stem: str) -> tuple[int, ...]:
        name = f"{stem}.weight_shape"
        out, packed = self._tensors.shape(f"{stem}.weight_packed")
        if name not in self._tensors:
            return out, packed * 8
        shape = tuple(int(n) for n in self._tensors.slice(name, (range(2),)))
        if len(shape) != 2 or shape[0] != out or -(-shape[1] // 8) != packed:
            raise UnsupportedModel(f"{self._tensors.where(name)} says {shape}, but the weight is {(out, packed * 8)}")
        return shape

    def _widen(self, stem: str, rows: range, columns: range) -> torch.Tensor:
        out, into = self._shape(stem)
        packed = self._tensors.slice(f"{stem}.weight_packed", (rows, _blocks(columns, 8)))
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        values = (((packed[..., None] >> shifts) & 15) - 8).flatten(1)
        values = values.narrow(1, columns.start % 8, len(columns))
        groups = (out, -(-into // self._group))
        scale = self._part(f"{stem}.weight_scale", rows, _blocks(columns, self._group), of=groups)
        return values.float() * _spread(scale.float(), 1, columns, self._group)


class Nvfp4(Widened):
    """NVIDIA's ModelOpt: two 4-bit floats in a byte, the first in its lower half, an e4m3 scale for each 16 columns,
    and one float32 scale for all."""

    label, marker = "NVFP4", ".weight_scale_2"
    companions = (".weight_scale", ".input_scale")

    def _shape(self, stem: str) -> tuple[int, ...]:
        out, packed = self._tensors.shape(f"{stem}.weight")
        return out, packed * 2

    def _widen(self, stem: str, rows: range, columns: range) -> torch.Tensor:
        out, into = self._shape(stem)
        values = four_bit_floats(self._tensors.slice(f"{stem}.weight", (rows, _blocks(columns, 2))))
        values = values.narrow(1, columns.start % 2, len(columns))
        scale = self._part(f"{stem}.weight_scale", rows, _blocks(columns, 16), of=(out, -(-into // 16)))
        second = f"{stem}.weight_scale_2"
        total = self._tensors.slice(second, tuple(range(n) for n in self._tensors.shape(second)))
        return values * _spread(scale.float() * total.float().reshape(()), 1, columns, 16)


class Mxfp4(Widened):
    """OCP MXFP4 as compressed-tensors stores it (mxfp4-pack-quantized): two 4-bit floats in a byte, the first in its
    lower half, and for each 32 columns the exponent of 2 with 127 added."""

    label, marker = "MXFP4", ".weight_packed"
    companions = (".weight_scale", ".weight_shape")

    def _shape(self, stem: str) -> tuple[int, ...]:
        out, packed = self._tensors.shape(f"{stem}.weight_packed")
        return out, packed * 2

    def _widen(self, stem: str, rows: range, columns: range) -> torch.Tensor:
        out, into = self._shape(stem)
        values = four_bit_floats(self._tensors.slice(f"{stem}.weight_packed", (rows, _blocks(columns, 2))))
        values = values.narrow(1, columns.start % 2, len(columns))
        scale = self._part(f"{stem}.weight_scale", rows, _blocks(columns, 32), of=(out, -(-into // 32)))
        return torch.ldexp(values, _spread(scale.int() - 127, 1, columns, 32))


def four_bit_floats(packed: torch.Tensor) -> torch.Tensor:
    """The two e2m1 numbers of each byte, the lower half first: uint8 [..., n] to float32 [..., 2 n]."""
    table = torch.tensor([*_E2M1, *(-value for value in _E2M1)])
    return table[torch.stack([packed & 15, packed >> 4], dim=-1).int()].flatten(-2)


def widened(tensors: Tensors, quantization: Mapping[str, Any] | None) -> Tensors:
    """The tensors behind the format that `quantization_config` names, if any. Raises UnsupportedModel naming it."""
    if not quantization:
        return tensors
    method = quantization.get("quant_method")
    if method == "fp8":
        block = quantization.get("weight_block_size")
        if not isinstance(block, list) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
            raise _refused("weight_block_size", block, "only FP8 in blocks is implemented: give two numbers")
        return Fp8Blocks(tensors, (block[0], block[1]))
    if method == "compressed-tensors":
        if quantization.get("format") == "mxfp4-pack-quantized":
            return Mxfp4(tensors)
        return PackedInt4(tensors, _int4_group(quantization))
    if method == "modelopt":
        algorithm = quantization.get("quant_algo")
        if algorithm != "NVFP4":
            raise _refused("quant_algo", algorithm, "only NVFP4 is implemented")
        return Nvfp4(tensors)
    raise _refused("quant_method", method, "only fp8, compressed-tensors and modelopt are implemented")


def _refused(field: str, value: object, fix: str) -> UnsupportedModel:
    return UnsupportedModel(f"config.json: quantization_config.{field}={value!r} is not supported: {fix}")


def _int4_group(quantization: Mapping[str, Any]) -> int:
    """Columns that share a scale."""
    if quantization.get("format") != "pack-quantized":
        raise _refused(
            "format", quantization.get("format"), "only pack-quantized and mxfp4-pack-quantized are implemented"
        )
    groups = quantization.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise _refused("config_groups", groups, "only one group of modules is implemented")
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise _refused("config_groups", groups, "its weights are not described")
    for field, wanted in (("num_bits", 4), ("type", "int"), ("symmetric", True), ("strategy", "group")):
        if weights.get(field) != wanted:
            raise _refused(f"config_groups.weights.{field}", weights.get(field), f"only {wanted!r} is implemented")
    if weights.get("actorder"):
        raise _refused("config_groups.weights.actorder", weights["actorder"], "only groups in order are implemented")
    size = weights.get("group_size")
    if not isinstance(size, int) or size < 1:
        raise _refused("config_groups.weights.group_size", size, "give a number of columns")
    return size


def is_ignored(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a tensor matches one of the patterns ("model.layers.61.*")."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
