"""What the code of a module is made of and called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...spmd.contract import Module
from ...spmd.placements import Weight
from ...spmd.runtime.local_weights import LocalWeights
from ..model import StepInputs

if TYPE_CHECKING:
    from ...run.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Step:
    """What a module is called with besides its rows."""

    inputs: StepInputs
    cache: KVCache


Body = Callable[[torch.Tensor, Step], torch.Tensor]
"""A module on a rank: from rows [rows, hidden] its term of the output, [rows, width]."""


class Parts:
    """A module's weights on this rank, by their names inside the module."""

    def __init__(self, module: Module, local: LocalWeights, layer: int) -> None:
        """`layer`: number of the module's cache among those of the model."""
        self.module = module
        self.layer = layer
        self.mesh, self.rank, self.device, self.dtype = local.mesh, local.rank, local.device, local.dtype
        self._local = local
        self._weights = {weight.name.removeprefix(f"{module.name}."): weight for weight in module.weights}

    def has(self, name: str) -> bool:
        """Whether the module has the weight."""
        return name in self._weights

    def weight(self, name: str) -> Weight:
        """The declaration of a weight."""
        return self._weights[name]

    def ranges(self, name: str) -> tuple[range, ...]:
        """Which part of a weight this rank holds."""
        return self._weights[name].slices(self.mesh, self.rank)

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """This rank's part of a weight; in the model's dtype if none is given."""
        return self._local.read(self._weights[name], dtype)

    def stack(self, names: Sequence[str]) -> torch.Tensor:
        """Matrices that read the same input as one, [sum of outputs, in]."""
        return torch.cat([self.read(name) for name in names])

    def stacked_bias(self, names: Sequence[str]) -> torch.Tensor | None:
        """Their biases as one, if they have any."""
        return torch.cat([self.read(name) for name in names]) if self.has(names[0]) else None
