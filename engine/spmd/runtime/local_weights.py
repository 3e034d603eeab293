"""A rank's slices of a model's weights, as the placements say."""

from typing import Protocol

import torch

from ..mesh import Mesh
from ..placements import Weight


class WeightSource(Protocol):
    """Tensors by Hugging Face name, read a slice at a time (`models.weights.Weights`)."""

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """The part `ranges` of the tensor `name`, whose whole shape is `shape`."""
        ...


class LocalWeights:
    """Reads what one rank holds."""

    def __init__(
        self, source: WeightSource, mesh: Mesh, rank: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.source = source
        self.mesh = mesh
        self.rank = rank
        self.dtype = dtype
        self.device = torch.device(device)

    def read(self, weight: Weight, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The rank's slice of `weight`; of stacked experts [own experts, out, in]. Where it holds none, zeros.

        Raises what the source does, and PlacementError naming the tensor and the sizes that would work.
        """
        kind = dtype or self.dtype
        ranges = weight.slices(self.mesh, self.rank)
        if not ranges[0]:  # placed once, on another rank
            return torch.zeros(weight.shape, dtype=kind, device=self.device)
        if "{expert}" not in weight.name:
            return self.source.read(weight.name, weight.shape, ranges, dtype=kind, device=self.device)
        stacked = torch.empty([len(r) for r in ranges], dtype=kind, device=self.device)
        for place, (name, part) in enumerate(weight.tensors(self.mesh, self.rank).items()):
            stacked[place] = self.source.read(name, weight.shape[1:], part, dtype=kind, device=self.device)
        return stacked
