"""Problems to measure: shapes of models in service, in bfloat16. On a CPU they are smaller, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..activation import silu_mul
from ..attention import paged_attention
from ..kv_cache import write_kv
from ..mla import CACHED_DIM, LATENT_DIM, mla_decode, plan_mla_decode
from ..mla_prefill import HEAD_DIM, VALUE_DIM, mla_prefill
from ..moe import grouped_gemm, moe_mlp, moe_route
from ..norm import rms_norm
from ..rotary import rotary
from ..sampling import sample_tokens
from .bench_case import BenchCase, Inputs

_BLOCK = 64


def cases(device: torch.device) -> Iterator[BenchCase]:
    """All problems, in a fixed order."""
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    for tokens in (1, 64, 8192) if gpu else (1, 64):
        yield _norm(dtype, tokens, 4096)
        yield _rotary(dtype, tokens, 40, 128)
        yield _silu(dtype, tokens, 14_336 if gpu else 1536)
        yield _write(dtype, tokens, 8, 128)
    for rows, new, context in ((1, 1, 51_200), (64, 1, 8192), (1, 2048, 34_816)) if gpu else ((1, 1, 2048),):
        yield _attention(dtype, rows, new, context, 32, 8, 128)
    for rows, heads, context in ((1, 16, 51_200), (32, 16, 8192), (32, 128, 8192)) if gpu else ((1, 16, 512),):
        yield _mla(dtype, rows, heads, context)
        if gpu:
            yield _mla(dtype, rows, heads, context, torch.float8_e4m3fn)
    for new, context, heads in ((8192, 32_768, 16), (2048, 34_816, 16)) if gpu else ((64, 128, 2),):
        yield _mla_prefill(dtype, new, context, heads)
    for tokens in (64, 4096) if gpu else (4,):
        experts, hidden, width = (128, 2048, 768) if gpu else (8, 256, 128)
        yield _route(dtype, tokens, 256, 8)
        yield _gemm(dtype, tokens * 8, experts, 2 * width, hidden)
        yield _mlp(dtype, tokens, experts, 8, hidden, width)
    for top_p in (1.0, 0.9):
        yield _sampling(dtype, 64 if gpu else 4, 128_256, top_p)


def _random(dtype: torch.dtype, device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device).to(dtype)


def _norm(dtype: torch.dtype, tokens: int, hidden: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        x, residual = _random(dtype, device, tokens, hidden), _random(dtype, device, tokens, hidden)
        weight = _random(dtype, device, hidden)
        return Inputs(lambda kernel: rms_norm(x, weight, eps=1e-5, residual=residual, kernel=kernel))

    moved = 4 * tokens * hidden * dtype.itemsize
    return BenchCase("rms_norm", f"{tokens} x {hidden}, residual", dtype, (hidden, 1), moved, 0, make)


def _rotary(dtype: torch.dtype, tokens: int, heads: int, head_dim: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        x, angles = _random(dtype, device, tokens, heads, head_dim), torch.rand(tokens, head_dim // 2, device=device)
        cos, sin = angles.cos(), angles.sin()
        return Inputs(lambda kernel: rotary(x, cos, sin, kernel=kernel))

    moved = 2 * tokens * heads * head_dim * dtype.itemsize
    description = f"{tokens} tokens, {heads} heads of {head_dim}"
    return BenchCase("rotary", description, dtype, (heads, head_dim), moved, 0, make)


def _silu(dtype: torch.dtype, tokens: int, width: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        gate_up = _random(dtype, device, tokens, 2 * width)
        return Inputs(lambda kernel: silu_mul(gate_up, kernel=kernel))

    return BenchCase("silu_mul", f"{tokens} x {width}", dtype, (width,), 3 * tokens * width * dtype.itemsize, 0, make)


def _write(dtype: torch.dtype, tokens: int, kv_heads: int, head_dim: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        blocks = -(-tokens // _BLOCK) + 1
        k, v = _random(dtype, device, 2, tokens, kv_heads, head_dim)
        k_cache, v_cache = _random(dtype, device, 2, blocks, _BLOCK, kv_heads, head_dim)
        slots = torch.randperm(blocks * _BLOCK, device=device)[:tokens]
        return Inputs(lambda kernel: write_kv(k, v, k_cache, v_cache, slots, kernel=kernel))

    moved = 4 * tokens * kv_heads * head_dim * dtype.itemsize
    description = f"{tokens} tokens, {kv_heads} heads of {head_dim}"
    return BenchCase("write_kv", description, dtype, (kv_heads, head_dim, _BLOCK, "heads_adjoin"), moved, 0, make)


def _paged(rows: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A shuffled block table and the lengths."""
    blocks = -(-context // _BLOCK)
    table = torch.randperm(rows * blocks, device=device).int().view(rows, blocks)
    return table, torch.full((rows,), context, dtype=torch.int32, device=device)


def _attention(
    dtype: torch.dtype, rows: int, new: int, context: int, heads: int, kv_heads: int, head_dim: int
) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        table, lengths = _paged(rows, context, device)
        q = _random(dtype, device, rows * new, heads, head_dim)
        k_cache, v_cache = _random(dtype, device, 2, table.numel(), _BLOCK, kv_heads, head_dim)
        starts = torch.arange(0, rows * new + 1, new, dtype=torch.int32, device=device)
        inputs = (q, k_cache, v_cache, table, lengths, starts)
        # The same amount of keys and values, laid out densely: what paging is compared with.
        dense_q = q.view(rows, new, heads, head_dim).transpose(1, 2)
        keys, values = (cache.view(rows, -1, kv_heads, head_dim).transpose(1, 2) for cache in (k_cache, v_cache))
        mask = torch.ones(new, context, dtype=torch.bool, device=device).tril_(context - new) if new > 1 else None
        sdpa = partial(scaled_dot_product_attention, dense_q, keys, values, attn_mask=mask, enable_gqa=True)
        return Inputs(
            lambda kernel: paged_attention(*inputs, scale=head_dim**-0.5, kernel=kernel),
            {"torch SDPA, dense": sdpa},
        )

    visible = rows * (new * context - new * (new - 1) // 2)
    moved = 2 * (rows * context * kv_heads + rows * new * heads) * head_dim * dtype.itemsize
    description = f"{rows} rows of {new} new tokens, context {context}, {heads} heads on {kv_heads} of {head_dim}"
    traits = (heads, kv_heads, head_dim, _BLOCK, "heads_adjoin")
    operations = 4 * visible * heads * head_dim
    return BenchCase("paged_attention", description, dtype, traits, moved, operations, make, True)


def _mla(dtype: torch.dtype, rows: int, heads: int, context: int, cached: torch.dtype | None = None) -> BenchCase:
    """`cached`: dtype of the cache, if it is another."""
    stored = cached or dtype

    def make(device: torch.device) -> Inputs:
        table, lengths = _paged(rows, context, device)
        q = _random(dtype, device, rows, 1, heads, CACHED_DIM)
        cache = _random(dtype, device, table.numel(), _BLOCK, CACHED_DIM).to(stored)
        # One plan serves all layers of a step: it is no part of the call.
        plan = plan_mla_decode(lengths, q_len=1, heads=heads, max_context=context)
        run = partial(mla_decode, q, cache, table, lengths, scale=CACHED_DIM**-0.5, plan=plan)
        return Inputs(lambda kernel: run(kernel=kernel))

    moved = rows * context * CACHED_DIM * stored.itemsize + rows * heads * (CACHED_DIM + LATENT_DIM) * dtype.itemsize
    operations = 2 * rows * heads * context * (CACHED_DIM + LATENT_DIM)
    description = f"{rows} rows, {heads} heads, context {context}" + (", 8-bit cache" if stored.itemsize == 1 else "")
    traits = (heads, 1, _BLOCK, 1, 8 * stored.itemsize)
    return BenchCase("mla_decode", description, dtype, traits, moved, operations, make, True)


def _mla_prefill(dtype: torch.dtype, new: int, context: int, heads: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        q = _random(dtype, device, new, heads, HEAD_DIM)
        k, v = _random(dtype, device, context, heads, HEAD_DIM), _random(dtype, device, context, heads, VALUE_DIM)
        starts = (torch.tensor([0, n], dtype=torch.int32, device=device) for n in (new, context))
        inputs = (q, k, v, *starts)
        options = {"scale": HEAD_DIM**-0.5, "causal": True, "max_queries": new}
        return Inputs(lambda kernel: mla_prefill(*inputs, kernel=kernel, **options))

    moved = heads * (new + context) * (HEAD_DIM + VALUE_DIM) * dtype.itemsize
    operations = 2 * heads * (HEAD_DIM + VALUE_DIM) * (new * context - new * (new - 1) // 2)
    description = f"{new} of {context} tokens, {heads} heads"
    return BenchCase("mla_prefill", description, dtype, (heads, 1), moved, operations, make, True)


def _route(dtype: torch.dtype, tokens: int, experts: int, top_k: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        logits, bias = _random(dtype, device, tokens, experts), torch.rand(experts, device=device)
        options = {"scoring": "sigmoid", "renormalize": True, "scale": 2.5, "bias": bias}
        return Inputs(lambda kernel: moe_route(logits, top_k, kernel=kernel, **options))  # type: ignore[arg-type]

    moved = tokens * (experts * dtype.itemsize + top_k * 8)
    description = f"{tokens} tokens, {top_k} of {experts} by sigmoid"
    return BenchCase("moe_route", description, dtype, (experts, top_k, "sigmoid"), moved, 0, make)


def _gemm(dtype: torch.dtype, rows: int, groups: int, columns: int, inner: int) -> BenchCase:
    sizes = [rows // groups + (group < rows % groups) for group in range(groups)]

    def make(device: torch.device) -> Inputs:
        x, weight = _random(dtype, device, rows, inner), _random(dtype, device, groups, columns, inner)
        offsets = torch.tensor([0, *sizes], device=device).cumsum(0).int()

        def loop() -> list[Tensor]:
            return [part @ matrix.T for part, matrix in zip(x.split(sizes), weight, strict=True)]

        return Inputs(lambda kernel: grouped_gemm(x, weight, offsets, kernel=kernel), {"torch matmul by group": loop})

    moved = (rows * (inner + columns) + groups * columns * inner) * dtype.itemsize
    description = f"{rows} rows in {groups} groups, {inner} to {columns}"
    traits = (groups, columns, inner)
    return BenchCase("grouped_gemm", description, dtype, traits, moved, 2 * rows * columns * inner, make, True)


def _mlp(dtype: torch.dtype, tokens: int, experts: int, top_k: int, hidden: int, width: int) -> BenchCase:
    def make(device: torch.device) -> Inputs:
        x, gate_up = _random(dtype, device, tokens, hidden), _random(dtype, device, experts, 2 * width, hidden)
        down, weights = _random(dtype, device, experts, hidden, width), torch.rand(tokens, top_k, device=device)
        chosen = torch.rand(tokens, experts, device=device).topk(top_k).indices.int()
        return Inputs(lambda kernel: moe_mlp(x, gate_up, down, weights, chosen, kernel=kernel))

    moved = (2 * tokens * hidden + 3 * experts * hidden * width) * dtype.itemsize
    description = f"{tokens} tokens, {top_k} of {experts} experts, {hidden} to {width}"
    traits = (experts, top_k, hidden, width)
    operations = 6 * tokens * top_k * hidden * width
    return BenchCase("moe_mlp", description, dtype, traits, moved, operations, make, True)


def _sampling(dtype: torch.dtype, rows: int, vocab: int, top_p: float) -> BenchCase:
    def column(device: torch.device, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    def make(device: torch.device) -> Inputs:
        logits = 3 * _random(dtype, device, rows, vocab)
        run: Callable[..., Tensor] = partial(
            sample_tokens,
            logits,
            temperature=column(device, 0.8),
            top_k=column(device, 0, torch.int32),
            top_p=column(device, top_p),
            min_p=column(device, 0.0),
            uniform=torch.rand(rows, dtype=torch.float64, device=device),
        )
        return Inputs(lambda kernel: run(kernel=kernel))

    description = f"{rows} rows of {vocab}, top_p {top_p}"
    return BenchCase("sample_tokens", description, dtype, (vocab,), rows * vocab * dtype.itemsize, 0, make, True)
