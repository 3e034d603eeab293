"""Weights out of the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..models.fields import UnsupportedModel


class CheckpointWeights:
    """Tensors of a checkpoint in the precision and on the device that a model asks for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors`: by Hugging Face name, read when indexed."""
        self._tensors = tensors

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """See `models.weights.Weights`."""
        if name not in self._tensors:
            raise UnsupportedModel(f"the checkpoint lacks the tensor {name}")
        tensor = self._tensors[name]
        if tuple(tensor.shape) != shape:
            raise UnsupportedModel(f"{name} has shape {tuple(tensor.shape)}, but the config says {shape}")
        if ranges is not None:
            tensor = tensor[tuple(slice(r.start, r.stop) for r in ranges)]
        return tensor.to(device=device, dtype=dtype).contiguous()
