"""Where a model's weights come from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch


class Weights(Protocol):
    """Tensors by Hugging Face name, read a slice at a time."""

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Sequence[str]) -> None:
        """See that exactly these tensors are there, by name and shape, before anything is read.

        `ignored`: patterns of names that may be there too ("model.layers.61.*"). Raises UnsupportedModel listing the
        tensors that are absent, of another shape, or left over.
        """
        ...

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """The part `ranges` (a range of each dimension; None: all) of the tensor `name`, whose whole shape is `shape`.

        Returns it contiguous, in `dtype`, on `device`. Raises UnsupportedModel or CheckpointError naming the tensor
        if it is absent, of another shape or damaged.
        """
        ...


class DummyWeights:
    """Random weights of any name and shape, made on the device: to run an architecture without a checkpoint.

    Matrices are normal with a deviation of 0.02, vectors are 1 (norms) except biases, which are 0. A tensor follows
    from its name, so that the ranks of a world hold parts of one model.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Sequence[str]) -> None:
        """Whatever is asked for can be made."""

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """A part of a random tensor; devices of other kinds have other numbers."""
        local = shape if ranges is None else tuple(len(r) for r in ranges)
        if name.endswith("bias"):
            return torch.zeros(local, dtype=dtype, device=device)
        if len(shape) == 1:
            return torch.ones(local, dtype=dtype, device=device)
        generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()) + self._seed)
        whole = torch.empty(shape, dtype=dtype, device=device).normal_(0.0, 0.02, generator=generator)
        if ranges is None or local == shape:
            return whole
        return whole[tuple(slice(r.start, r.stop) for r in ranges)].clone(memory_format=torch.contiguous_format)
