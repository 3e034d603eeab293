"""`mla_prefill` in plain Triton: FlashAttention-2 (Dao 2023, arXiv:2307.08691) with 192 values a key and 128 a value.

Everything that varies from step to step is a run-time argument, and the grid depends on shapes only.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import Platform
from ..kernel import Band
from ..registry import register

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 was set at import: the kernel then runs on the CPU, slowly, for tests."""

_PLATFORMS = (Platform("cuda", min_arch=80), Platform("cpu")) if INTERPRETED else (Platform("cuda", min_arch=80),)
# The interpreter multiplies the bit patterns of bfloat16 values; on a device, float32 tiles do not fit shared memory.
_DTYPES = (torch.float16, torch.float32) if INTERPRETED else (torch.bfloat16, torch.float16)

QUERIES, KEYS, WARPS, STAGES = 128, 64, 8, 2
"""Shape and launch of a program on sm_90, sm_100 and sm_103."""
SMALL_QUERIES, SMALL_KEYS, SMALL_WARPS = 64, 32, 4
"""The same elsewhere: 99 KiB of shared memory at most, the least of sm_80 and newer, and no spilled register."""


@triton.jit(do_not_specialize=["heads"])  # type: ignore[untyped-decorator]
def attend_queries(
    q_ptr: tl.tensor,  # [queries, heads, 192]
    k_ptr: tl.tensor,  # [keys, heads, 192]
    v_ptr: tl.tensor,  # [keys, heads, 128]
    q_starts_ptr: tl.tensor,  # int32 [rows + 1]
    kv_starts_ptr: tl.tensor,  # int32 [rows + 1]
    out_ptr: tl.tensor,  # [queries, heads, 128]
    lse_ptr: tl.tensor,  # float32 [queries, heads], natural logarithm
    scale_log2: tl.tensor,  # scale / ln 2: exp2 is the device's native exponential
    heads: tl.tensor,
    CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Attention of QUERIES queries of one head of one row. Grid: (tiles of the longest row's queries, heads, rows)."""
    head = tl.program_id(1)
    row = tl.program_id(2)
    q_start = tl.load(q_starts_ptr + row)
    queries = tl.load(q_starts_ptr + row + 1) - q_start
    kv_start = tl.load(kv_starts_ptr + row)
    keys = tl.load(kv_starts_ptr + row + 1) - kv_start
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES  # the last queries see most: begin with them
    if first < queries:
        query = first + tl.arange(0, QUERIES)
        is_query = query < queries
        nope = tl.arange(0, 128)
        rope = 128 + tl.arange(0, 64)
        q_vector = (q_start + query).to(tl.int64)[:, None] * heads + head
        q_nope = tl.load(q_ptr + q_vector * 192 + nope[None, :], mask=is_query[:, None], other=0.0)
        q_rope = tl.load(q_ptr + q_vector * 192 + rope[None, :], mask=is_query[:, None], other=0.0)
        visible = tl.where(query >= 0, keys, keys)
        seen = keys
        if CAUSAL:
            visible = keys - queries + query + 1
            seen = tl.minimum(keys, tl.maximum(keys - queries + first + QUERIES, 0))
        largest = tl.full([QUERIES], -1e30, tl.float32)
        total = tl.zeros([QUERIES], tl.float32)
        weighted = tl.zeros([QUERIES, 128], tl.float32)
        for tile in tl.range(0, tl.cdiv(seen, KEYS), num_stages=STAGES):
            key = tile * KEYS + tl.arange(0, KEYS)
            kv_vector = (kv_start + key).to(tl.int64)[:, None] * heads + head
            is_key = (key < keys)[:, None]
            k_nope = tl.load(k_ptr + kv_vector * 192 + nope[None, :], mask=is_key, other=0.0)
            k_rope = tl.load(k_ptr + kv_vector * 192 + rope[None, :], mask=is_key, other=0.0)
            value = tl.load(v_ptr + kv_vector * 128 + nope[None, :], mask=is_key, other=0.0)
            scores = tl.dot(q_nope, tl.trans(k_nope))
            scores = tl.dot(q_rope, tl.trans(k_rope), scores)
            is_visible = (key[None, :] < visible[:, None]) & (key < keys)[None, :]
            scores = tl.where(is_visible, scores * scale_log2, float("-inf"))
            new_largest = tl.maximum(largest, tl.max(scores, 1))
            weights = tl.exp2(scores - new_largest[:, None])
            decay = tl.exp2(largest - new_largest)
            total = total * decay + tl.sum(weights, 1)
            weighted = tl.dot(weights.to(value.dtype), value, weighted * decay[:, None])
            largest = new_largest
        divisor = tl.where(total > 0, total, 1.0)
        lse = tl.where(total > 0, (largest + tl.log2(divisor)) * 0.6931471805599453, float("-inf"))
        target = (q_start + query).to(tl.int64) * heads + head
        tl.store(lse_ptr + target, lse, mask=is_query)
        out = (weighted / divisor[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + target[:, None] * 128 + nope[None, :], out, mask=is_query[:, None])


@register("mla_prefill", name="triton_flash", band=Band.PORTABLE, platforms=_PLATFORMS, dtypes=_DTYPES)
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
    """Launch one kernel. Arguments as in the public `mla_prefill`."""
    rows, heads = q_starts.shape[0] - 1, q.shape[1]
    queries, keys, warps = QUERIES, KEYS, WARPS
    if q.is_cuda and torch.cuda.get_device_capability(q.device) not in ((9, 0), (10, 0), (10, 3)):
        queries, keys, warps = SMALL_QUERIES, SMALL_KEYS, SMALL_WARPS
    if rows * heads * max_queries == 0:
        return
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_queries[(triton.cdiv(max_queries, queries), heads, rows)](
            q,
            k,
            v,
            q_starts.contiguous(),
            kv_starts.contiguous(),
            out,
            lse,
            scale / math.log(2),
            heads,
            CAUSAL=causal,
            QUERIES=queries,
            KEYS=keys,
            STAGES=STAGES,
            num_warps=warps,
        )
