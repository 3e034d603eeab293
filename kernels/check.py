"""Numerics of every registered kernel on the device at hand: what `tokenspeed kernels --check` runs.

Each kernel that fits a case runs through its operation's public function and is held to dense attention in float64, on
the inputs as rounded to their dtype. Results and all cache positions outside a context are NaN before the run, blocks
are shuffled, block tables end in entries out of range, and the second of two runs must give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import paged_attention
from .kernel import Kernel
from .kv_cache import write_kv
from .mla import CACHED_DIM, LATENT_DIM, mla_decode
from .mla_prefill import HEAD_DIM, VALUE_DIM, mla_prefill
from .registry import REGISTRY

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2.5e-3, torch.float16: 1e-3}
"""Bounds of `relative_error`. Rounding the result alone costs 1.7e-3 in bfloat16."""
LSE_TOLERANCE = 1e-3

Results = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A problem of an operation, its exact results (float64), and how to run a kernel of a given name on it."""

    operation: str
    description: str
    dtype: torch.dtype
    traits: tuple[int, ...]
    run: Callable[[str], Results]
    exact: Results
    tolerances: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The `relative_error` of each result of the operation beside what is allowed, or what was raised (`failure`)."""

    operation: str
    kernel: str
    description: str
    dtype: torch.dtype
    errors: tuple[float, ...]
    tolerances: tuple[float, ...]
    same_bits: bool
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every error is within its tolerance, both runs agreed and nothing was raised."""
        within = all(error <= allowed for error, allowed in zip(self.errors, self.tolerances, strict=True))
        return self.failure is None and self.same_bits and within  # NaN compares false


def check_kernels(device: torch.device) -> Iterator[CheckResult]:
    """Check every kernel that fits a case on the device; kernels that fit none yield nothing."""
    for case in cases(device):
        operation = REGISTRY.operation(case.operation)
        for kernel in operation.kernels():
            problem = operation.select(device, case.dtype, case.traits, "reference").problem
            if not kernel.objections(problem):
                yield check_kernel(case, kernel)


def check_kernel(case: Case, kernel: Kernel) -> CheckResult:
    """Run a kernel on a case twice and compare. What the kernel raises is reported, not raised."""
    common = (case.operation, kernel.name, case.description, case.dtype)
    nothing = (float("nan"),) * len(case.exact)
    try:
        first, second = case.run(kernel.name), case.run(kernel.name)
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        errors = tuple(relative_error(got, exact) for got, exact in zip(first, case.exact, strict=True))
    except (RuntimeError, ValueError, TypeError) as error:
        return CheckResult(*common, nothing, case.tolerances, False, f"{type(error).__name__}: {error}")
    return CheckResult(*common, errors, case.tolerances, same)


def relative_error(got: Tensor, exact: Tensor) -> float:
    """The largest |got - exact| / |exact| of an index of the first dimension (row, token or block).

    Where `exact` is infinite `got` must be the same infinity, where a whole index is zero the error is absolute; NaN if
    `got` holds any or misses an infinity.
    """
    finite = exact.isfinite()
    if not torch.equal(got[~finite].double(), exact[~finite].double()):
        return float("nan")
    expected = exact.double().where(finite, 0.0).flatten(1)
    difference = (got.double().where(finite, 0.0).flatten(1) - expected).norm(dim=1)
    norm = expected.norm(dim=1)
    return float((difference / norm.where(norm > 0, 1.0)).max())


def cases(device: torch.device) -> Iterator[Case]:
    """The cases, small enough for a CPU and reproducible."""
    random = torch.Generator().manual_seed(0)
    for dtype in _DTYPES:
        for heads, kv_heads, head_dim, block_size in ((9, 3, 64, 16), (32, 8, 128, 64), (4, 4, 80, 48)):
            yield _attention_case(heads, kv_heads, head_dim, block_size, dtype, device, random)
        for heads, q_len in ((16, 1), (16, 2), (32, 1), (16, 4), (128, 1), (20, 7)):
            yield _mla_case(heads, q_len, 1.0, dtype, device, random)
        yield _mla_case(16, 1, 50.0, dtype, device, random)
        yield _mla_case(64, 1, 50.0, dtype, device, random)
        for heads, q_len in ((16, 1), (128, 1), (20, 7)):
            yield _mla_case(heads, q_len, 1.0, dtype, device, random, cache_scale=0.02)
        for causal in (True, False):
            yield _prefill_case(3, causal, dtype, device, random)
        yield _write_case(8, 128, 16, dtype, device, random)


@dataclass(frozen=True, slots=True)
class _PagedContexts:
    """Random vectors of each row's context in shuffled blocks; NaN everywhere else.

    contexts: per row [context, ...]; cache: [blocks, block_size, ...]; block_table, context_lens: int32.
    """

    contexts: list[Tensor]
    cache: Tensor
    block_table: Tensor
    context_lens: Tensor


def _page(
    lengths: list[int], block_size: int, shape: tuple[int, ...], dtype: torch.dtype, random: torch.Generator
) -> _PagedContexts:
    per_row = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(per_row) + 2, generator=random)
    cache = torch.full((len(order), block_size, *shape), torch.nan, dtype=dtype)
    table = torch.full((len(lengths), max(per_row) + 1), 2**30, dtype=torch.int32)
    contexts, used = [], 0
    for row, (length, blocks) in enumerate(zip(lengths, per_row, strict=True)):
        context = torch.randn(length, *shape, generator=random).to(dtype)
        position = torch.arange(length)
        own = order[used : used + blocks]
        cache[own[position // block_size], position % block_size] = context
        table[row, :blocks] = own.int()
        contexts.append(context)
        used += blocks
    return _PagedContexts(contexts, cache, table, torch.tensor(lengths, dtype=torch.int32))


def _dense_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Results:
    """out and lse in float64 of one row: q [queries, heads, d], keys and values [context, heads, d] or [context, d]."""
    new, context = len(q), len(keys)
    key_dims = "khd" if keys.ndim == 3 else "kd"
    scores = torch.einsum(f"qhd,{key_dims}->qhk", q.double(), keys.double()) * scale
    visible = torch.ones(new, context, dtype=torch.bool).tril_(context - new)[:, None]
    scores = scores.where(visible, -torch.inf)
    weights = scores.softmax(-1).where(visible, 0.0)
    return torch.einsum(f"qhk,{key_dims}->qhd", weights, values.double()), scores.logsumexp(-1)


def _attention_case(
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
) -> Case:
    new = [1, 1, 1, 1, 17, 70, 1]
    lengths = [1, 63, 64, 65, 17, 300, 400]
    paged = _page(lengths, block_size, (2, kv_heads, head_dim), dtype, random)
    q = torch.randn(sum(new), heads, head_dim, generator=random).to(dtype)
    scale = head_dim**-0.5
    exact = []
    for row, queries in enumerate(q.split(new)):
        keys, values = paged.contexts[row].repeat_interleave(heads // kv_heads, dim=2).unbind(1)
        exact.append(_dense_attention(queries, keys, values, scale)[0])
    starts = torch.tensor([0, *new]).cumsum(0).int()
    k_cache, v_cache = (half.contiguous().to(device) for half in paged.cache.unbind(2))
    inputs = (q, k_cache, v_cache, paged.block_table, paged.context_lens, starts)
    placed = tuple(tensor.to(device) for tensor in inputs)

    def run(kernel: str) -> Results:
        out = torch.full(q.shape, torch.nan, dtype=dtype, device=device)
        return (paged_attention(*placed, scale=scale, out=out, kernel=kernel),)

    description = f"{heads} heads on {kv_heads}, head_dim {head_dim}, blocks of {block_size}"
    # Fused attention on CPUs rounds the weights to the inputs' dtype as well.
    tolerance = TOLERANCES[dtype] if dtype is torch.float32 else 2 * TOLERANCES[dtype]
    traits = (heads, kv_heads, head_dim, block_size)
    exact_out = torch.cat(exact).to(device)
    return Case("paged_attention", description, dtype, traits, run, (exact_out,), (tolerance,))


def _mla_case(
    heads: int,
    q_len: int,
    magnitude: float,
    dtype: torch.dtype,
    device: torch.device,
    random: torch.Generator,
    cache_scale: float | None = None,
) -> Case:
    """With a `cache_scale` the cache holds 8-bit values, and the exact result is that of those values."""
    lengths = [1, 63, 64, 65, 0, 127, 400, 300]
    paged = _page(lengths, 64, (CACHED_DIM,), dtype, random)
    q = (magnitude * torch.randn(len(lengths), q_len, heads, CACHED_DIM, generator=random)).to(dtype)
    scale = CACHED_DIM**-0.5
    cache, contexts = paged.cache, paged.contexts
    if cache_scale is not None:
        cache = (paged.cache.float() / cache_scale).to(torch.float8_e4m3fn)
        rounded = [(context.float() / cache_scale).to(torch.float8_e4m3fn) for context in paged.contexts]
        contexts = [context.double() * cache_scale for context in rounded]
    exact = []
    for row, context in enumerate(contexts):
        exact.append(_dense_attention(q[row], context, context[:, :LATENT_DIM], scale))
    exact_out, exact_lse = (torch.stack(parts).to(device) for parts in zip(*exact, strict=True))
    placed = tuple(tensor.to(device) for tensor in (q, cache, paged.block_table, paged.context_lens))
    common = {"scale": scale, "cache_scale": cache_scale or 1.0}

    def run(kernel: str) -> Results:
        out = torch.full((*q.shape[:-1], LATENT_DIM), torch.nan, dtype=dtype, device=device)
        lse = torch.full(q.shape[:-1], torch.nan, device=device)
        return mla_decode(*placed, out=out, lse=lse, kernel=kernel, **common)

    scores = "" if magnitude == 1.0 else f", scores around +-{magnitude:.0f}"
    bits = 8 * cache.element_size()
    description = f"{heads} heads, {q_len} new tokens{scores}" + (", 8-bit cache" if bits == 8 else "")
    tolerances = (TOLERANCES[dtype] * (1 if magnitude == 1.0 else 2), LSE_TOLERANCE)
    traits = (heads, q_len, 64, 1, bits)
    return Case("mla_decode", description, dtype, traits, run, (exact_out, exact_lse), tolerances)


def _prefill_case(heads: int, causal: bool, dtype: torch.dtype, device: torch.device, random: torch.Generator) -> Case:
    new, keys = [1, 64, 65, 130, 9], [1, 300, 65, 513, 4]
    scale = HEAD_DIM**-0.5
    q = torch.randn(sum(new), heads, HEAD_DIM, generator=random).to(dtype)
    k = torch.randn(sum(keys), heads, HEAD_DIM, generator=random).to(dtype)
    v = torch.randn(sum(keys), heads, VALUE_DIM, generator=random).to(dtype)
    exact = []
    for own_q, own_k, own_v in zip(q.split(new), k.split(keys), v.split(keys), strict=True):
        # Not causal: as if the new tokens came after all keys.
        later = 0 if causal else len(own_q)
        padded_k, padded_v = (torch.cat([own, own.new_zeros(later, *own.shape[1:])]) for own in (own_k, own_v))
        scores = torch.einsum("qhd,khd->qhk", own_q.double(), padded_k.double()) * scale
        position = torch.arange(len(padded_k))
        last = torch.arange(len(own_q)) + len(padded_k) - len(own_q)
        visible = (position <= last[:, None]) & (position < len(own_k))
        scores = scores.where(visible[:, None], -torch.inf)
        weights = scores.softmax(-1).where(visible[:, None], 0.0)
        exact.append((torch.einsum("qhk,khd->qhd", weights, padded_v.double()), scores.logsumexp(-1)))
    exact_out, exact_lse = (torch.cat(parts).to(device) for parts in zip(*exact, strict=True))
    starts = (torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (new, keys))
    placed = tuple(tensor.to(device) for tensor in (q, k, v, *starts))

    def run(kernel: str) -> Results:
        out = torch.full((*q.shape[:-1], VALUE_DIM), torch.nan, dtype=dtype, device=device)
        lse = torch.full(q.shape[:-1], torch.nan, device=device)
        common = {"scale": scale, "causal": causal, "max_queries": max(new)}
        return mla_prefill(*placed, out=out, lse=lse, kernel=kernel, **common)

    description = f"{heads} heads, {'causal' if causal else 'all keys'}"
    # The error is that of the worst token, whose result may be small.
    tolerances = (2 * TOLERANCES[dtype], LSE_TOLERANCE)
    return Case("mla_prefill", description, dtype, (heads, 1), run, (exact_out, exact_lse), tolerances)


def _write_case(
    kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype, device: torch.device, random: torch.Generator
) -> Case:
    blocks, tokens = 9, 50
    k, v = torch.randn(2, tokens, kv_heads, head_dim, generator=random).to(dtype).to(device)
    slots = torch.randperm(blocks * block_size, generator=random)[:tokens].to(device)
    before = torch.randn(2, blocks, block_size, kv_heads, head_dim, generator=random).to(dtype).to(device)
    expected = before.clone().flatten(1, 2)
    for token, slot in enumerate(slots.tolist()):
        expected[0, slot], expected[1, slot] = k[token], v[token]

    def run(kernel: str) -> Results:
        k_cache, v_cache = before.clone()
        write_kv(k, v, k_cache, v_cache, slots, kernel=kernel)
        return k_cache, v_cache

    exact = expected.unflatten(1, (blocks, block_size)).double().unbind(0)
    description = f"{kv_heads} heads, head_dim {head_dim}, blocks of {block_size}"
    return Case("write_kv", description, dtype, (kv_heads, head_dim, block_size), run, tuple(exact), (0.0, 0.0))
