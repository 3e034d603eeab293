"""Grouped-query attention over a paged cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ....kernels import AttentionPlan, paged_attention, plan_paged_attention, rms_norm, rotary, write_kv
from ..model import DecodePlan
from .linear import Linear
from .module import Parts, Step
from .rope import Rotary


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """How queries and keys are made: what the weights do not say."""

    head_dim: int
    table: Rotary
    """Turns the first `table.dim` values of every head."""
    norm_eps: float
    """Of the norms of each query and key head, if the model has them."""


class GroupedQueryAttention:
    """This rank's heads of grouped-query attention."""

    def __init__(self, parts: Parts, config: GroupedQuery) -> None:
        self._config = config
        self._layer = parts.layer
        names = ["q_proj", "k_proj", "v_proj"]
        self._qkv = Linear(
            parts.stack([f"{name}.weight" for name in names]), parts.stacked_bias([f"{name}.bias" for name in names])
        )
        self._heads = len(parts.ranges("q_proj.weight")[0]) // config.head_dim
        self._kv_heads = len(parts.ranges("k_proj.weight")[0]) // config.head_dim
        self._norms = [parts.read(f"{name}_norm.weight") for name in "qk"] if parts.has("q_norm.weight") else None
        self._o = Linear(parts.read("o_proj.weight"), parts.read("o_proj.bias") if parts.has("o_proj.bias") else None)

    def plan_decode(self, context_lens: torch.Tensor, *, row_tokens: int, max_context: int) -> DecodePlan | None:
        """See `Model.plan_decode`; the same for all layers. The CPU's kernel has no use for one."""
        if context_lens.device.type == "cpu":
            return None
        return plan_paged_attention(
            context_lens,
            row_tokens=row_tokens,
            heads=self._heads,
            kv_heads=self._kv_heads,
            head_dim=self._config.head_dim,
            max_context=max_context,
        )

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Attention of all tokens of the step, which are in the order of their requests."""
        c, inputs, cached = self._config, step.inputs, step.cache.layers[self._layer]
        qkv = self._qkv(x).view(len(x), -1, c.head_dim)
        q, k = self._turned(qkv[:, : self._heads + self._kv_heads], step)
        write_kv(k, qkv[:, self._heads + self._kv_heads :], cached["keys"], cached["values"], inputs.slot_mapping)
        attended = paged_attention(
            q,
            cached["keys"],
            cached["values"],
            inputs.block_table,
            inputs.context_lens,
            inputs.query_start,
            scale=c.head_dim**-0.5,
            plan=inputs.decode_plan if isinstance(inputs.decode_plan, AttentionPlan) else None,
        )
        return self._o(attended.reshape(len(x), -1))

    def _turned(self, heads: torch.Tensor, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys, which are neighbours, normed if the model does so, then turned by their positions."""
        c = self._config
        if self._norms is not None:
            q, k = heads.split([self._heads, self._kv_heads], dim=1)
            heads = torch.cat([_norm(q, self._norms[0], c.norm_eps), _norm(k, self._norms[1], c.norm_eps)], dim=1)
        cos, sin = c.table.at(step.inputs)
        if c.table.dim == c.head_dim:
            turned = rotary(heads, cos, sin)
        else:
            turned = torch.cat([rotary(heads[..., : c.table.dim], cos, sin), heads[..., c.table.dim :]], dim=-1)
        return turned[:, : self._heads], turned[:, self._heads :]


def _norm(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    normed, _ = rms_norm(heads.reshape(-1, heads.shape[-1]), weight, eps=eps)
    return normed.view(heads.shape)
