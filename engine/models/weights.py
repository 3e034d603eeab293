"""Where a model's weights come from."""

from __future__ import annotations

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

    Matrices are normal with a deviation of 0.02, vectors are 1 (norms) except biases, which are 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

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
        """A tensor of the shape of `ranges`. Ranks do not agree on values: a slice is not part of any whole."""
        local = shape if ranges is None else tuple(len(r) for r in ranges)
        if name.endswith("bias"):
            return torch.zeros(local, dtype=dtype, device=device)
        if len(shape) == 1:
            return torch.ones(local, dtype=dtype, device=device)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        tensor = torch.empty(local, dtype=dtype, device=device)
        return tensor.normal_(0.0, 0.02, generator=self._generators[device])
