"""Embedding, norm, output head and the gated feed-forward layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ....kernels import rms_norm, silu_mul
from ...spmd.placements import Weight
from ...spmd.runtime.local_weights import LocalWeights
from .linear import Linear
from .module import Parts, Step


class Embedding:
    """Rows of a matrix by token id; a row of zeros for an id that another rank holds."""

    def __init__(self, parts: Parts) -> None:
        weight = parts.module.weights[0]
        self._ids = weight.slices(parts.mesh, parts.rank)[0]
        self._all = len(self._ids) == weight.shape[0]
        self.matrix = parts.read(weight.name)

    def __call__(self, ids: torch.Tensor, step: Step) -> torch.Tensor:
        """`ids`: [tokens] integer; returns [tokens, hidden]."""
        if self._all:
            return F.embedding(ids, self.matrix)
        local = ids - self._ids.start
        here = (local >= 0) & (local < len(self._ids))
        return F.embedding(local.where(here, 0), self.matrix) * here[:, None]


class Head:
    """The output matrix, or this rank's token ids of it."""

    def __init__(self, parts: Parts, tied: torch.Tensor | None = None) -> None:
        """`tied`: the embedding's matrix, if it is the output matrix too."""
        self._matrix = Linear(parts.read(parts.module.weights[0].name) if tied is None else tied)

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Logits [rows, own token ids]."""
        return self._matrix(x)


class ResidualNorm:
    """RMSNorm of the stream after what a module computed has been added to it."""

    def __init__(self, weight: Weight, local: LocalWeights, eps: float) -> None:
        self._weight = local.read(weight)
        self._eps = eps

    def __call__(self, hidden: torch.Tensor, stream: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The normed rows and the new stream, both [rows, hidden]."""
        return rms_norm(hidden, self._weight, eps=self._eps, residual=stream)


class GatedMlp:
    """down(silu(gate(x)) * up(x)), or this rank's part of the width of it."""

    def __init__(self, parts: Parts, prefix: str = "") -> None:
        """`prefix`: where the layer is inside the module, "shared_experts."."""
        names = [f"{prefix}{name}_proj.weight" for name in ("gate", "up")]
        self._gate_up = Linear(parts.stack(names))
        self._down = Linear(parts.read(f"{prefix}down_proj.weight"))

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """[rows, hidden] to [rows, hidden]."""
        return self._down(silu_mul(self._gate_up(x)))
