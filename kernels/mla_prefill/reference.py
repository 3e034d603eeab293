"""The definition of `mla_prefill` in plain torch: one row at a time, the whole score matrix, softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernel import Band
from ..registry import register


@register("mla_prefill", name="reference", band=Band.REFERENCE)
def mla_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    kv_starts: Tensor,
    *,
    scale: float,
    causal: bool,
    max_queries: int,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Any device and dtype; computes in float32, or float64 if the inputs are. Reads the lengths on the host."""
    precision = torch.promote_types(q.dtype, torch.float32)
    q_lens, kv_lens = q_starts.diff().tolist(), kv_starts.diff().tolist()
    rows = zip(q.split(q_lens), k.split(kv_lens), v.split(kv_lens), out.split(q_lens), lse.split(q_lens), strict=True)
    for row_q, row_k, row_v, row_out, row_lse in rows:
        scores = torch.einsum("qhd,khd->qhk", row_q.to(precision), row_k.to(precision)) * scale
        if causal:
            seen = torch.ones(len(row_q), len(row_k), dtype=torch.bool, device=q.device).tril_(len(row_k) - len(row_q))
            scores = scores.where(seen[:, None], -torch.inf)
        row_lse.copy_(scores.logsumexp(-1))
        weights = (scores - row_lse.to(precision)[..., None]).exp_().nan_to_num_(0.0)  # nothing seen: -inf - -inf
        row_out.copy_(torch.einsum("qhk,khd->qhd", weights, row_v.to(precision)))
