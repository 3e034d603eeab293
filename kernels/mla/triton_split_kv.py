"""`mla_decode` in plain Triton: split-KV attention, then a merge of the splits.

Flash-Decoding (Dao et al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html) with the online softmax of
Milakov and Gimelshein (arXiv:1805.02867). The q_len * heads queries of a row form one matrix, since all of them read
the same cached values; each cached value is loaded once and serves as key and as value.

Everything that varies from step to step (heads, q_len, splits, lengths) is a run-time argument: nothing is compiled or
synchronised in the serving loop, and the launch grid depends on shapes only, so calls can be captured in CUDA graphs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..constraints import at_least, exactly
from ..device import Platform
from ..kernel import Band
from ..registry import register
from . import CACHED_DIM, LATENT_DIM, ROPE_DIM, MlaPlan
from .merge import merge_shape, merge_splits

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 was set at import: the kernels then run on the CPU, slowly, for tests."""

_PLATFORMS = (Platform("cuda", min_arch=80), Platform("cpu")) if INTERPRETED else (Platform("cuda", min_arch=80),)
# Where e4m3 converts in hardware.
_FP8_PLATFORMS = (Platform("cuda", min_arch=89), *_PLATFORMS[1:])
# The interpreter multiplies the bit patterns of bfloat16 values; on a device, float32 tiles do not fit shared memory.
_DTYPES = (torch.float16, torch.float32) if INTERPRETED else (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Tile:
    """Shape and launch of one program: `queries` of a row against `keys` cached tokens at a time."""

    queries: int
    keys: int
    warps: int
    stages: int
    programs_per_multiprocessor: int
    tma: bool = False
    """Whether whole tiles are copied by TMA, which needs a cache of the queries' dtype."""


NARROW = Tile(queries=16, keys=64, warps=4, stages=2, programs_per_multiprocessor=2)
"""mma.sync tile that fits 99 KiB of shared memory, the least of sm_80 and newer."""

WIDE = Tile(queries=64, keys=64, warps=8, stages=2, programs_per_multiprocessor=1, tma=True)
"""wgmma tile for Hopper: a quarter of the cache reads for many queries. With 4 warps it would spill registers."""


EIGHT_BIT = Tile(queries=16, keys=128, warps=8, stages=2, programs_per_multiprocessor=1)
"""Tile for an 8-bit cache where a block may have 125,440 bytes of shared memory."""

SMALL_EIGHT_BIT = Tile(queries=16, keys=64, warps=8, stages=2, programs_per_multiprocessor=1)
"""The same within 99 KiB."""


def choose_tile(queries: int, arch: int, cache_bits: int = 16) -> Tile:
    """The tile for a row of `queries` = q_len * heads on compute capability `arch` (10 * major + minor).

    Up to 32 queries, two narrow tiles are at least as fast as a wide one, half of which would be empty.
    """
    if cache_bits == 8:
        return EIGHT_BIT if arch in (90, 100, 103) else SMALL_EIGHT_BIT
    return WIDE if arch == 90 and queries > 2 * NARROW.queries else NARROW


def choose_splits(rows: int, queries: int, max_context: int, tile: Tile, multiprocessors: int) -> int:
    """Into how many parts to cut each context: enough to fill the device, none shorter than two tiles of keys."""
    programs = rows * -(-queries // tile.queries)
    fill = multiprocessors * tile.programs_per_multiprocessor // programs
    return max(1, min(fill, -(-max_context // (2 * tile.keys))))


@triton.jit  # type: ignore[untyped-decorator]
def _attend_tile(
    q_latent: tl.tensor,
    q_rope: tl.tensor,
    kv_latent: tl.tensor,
    k_rope: tl.tensor,
    position: tl.tensor,
    visible: tl.tensor,
    scale_log2: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    weighted: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One step of online softmax: the new largest score, sum of weights and weighted values."""
    scores = tl.dot(q_latent, tl.trans(kv_latent))
    scores = tl.dot(q_rope, tl.trans(k_rope), scores)
    scores = tl.where(position[None, :] < visible[:, None], scores * scale_log2, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    # A query that has seen nothing yet has largest -inf, and -inf - -inf is not a number.
    shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    weights = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(largest - shift)
    total = total * decay + tl.sum(weights, 1)
    weighted = tl.dot(weights.to(kv_latent.dtype), kv_latent, weighted * decay[:, None])
    return new_largest, total, weighted


@triton.jit(do_not_specialize=["table_stride", "heads", "q_len", "splits"])  # type: ignore[untyped-decorator]
def attend_split(
    q_ptr: tl.tensor,  # [rows, queries, 576], queries = q_len * heads
    kv_ptr: tl.tensor,  # [blocks, BLOCK_SIZE, 576] with strides
    latent_desc: tl.tensor,  # TMA descriptor of the same as [tokens, 576], boxes of KEYS by 512; None if not TMA
    rope_desc: tl.tensor,  # the same, boxes of KEYS by 64
    table_ptr: tl.tensor,  # int32 [rows, max_blocks] with stride
    context_ptr: tl.tensor,  # int32 [rows]
    out_ptr: tl.tensor,  # [rows, splits, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, splits, queries], natural logarithm
    scale_log2: tl.tensor,  # scale * cache_scale / ln 2: exp2 is the device's native exponential
    cache_scale: tl.tensor,  # what cached values were divided by
    block_stride: tl.tensor,
    token_stride: tl.tensor,
    table_stride: tl.tensor,
    heads: tl.tensor,
    q_len: tl.tensor,
    splits: tl.tensor,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
) -> None:
    """Attention of QUERIES queries of one row over one split of its context.

    TMA: copy whole tiles through the descriptors; needs a cache whose tokens adjoin, and BLOCK_SIZE a multiple of KEYS.
    Grid: (query tiles, splits, rows). A split without a visible key writes out 0 and lse -inf.
    """
    split = tl.program_id(1)
    row = tl.program_id(2)
    queries = q_len * heads
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    is_query = query < queries
    latent = tl.arange(0, LATENT)
    rope = LATENT + tl.arange(0, ROPE)
    # 64-bit offsets: workspaces of large batches and pools exceed 2**31 elements.
    q_row = q_ptr + (row.to(tl.int64) * queries + query)[:, None] * (LATENT + ROPE)
    q_latent = tl.load(q_row + latent[None, :], mask=is_query[:, None], other=0.0)
    q_rope = tl.load(q_row + rope[None, :], mask=is_query[:, None], other=0.0)
    # An 8-bit cache is multiplied in float16, to which its values convert exactly and in one instruction.
    EIGHT_BITS: tl.constexpr = kv_ptr.dtype.element_ty == tl.float8e4nv
    if EIGHT_BITS:
        q_latent = q_latent.to(tl.float16)
        q_rope = q_rope.to(tl.float16)

    context = tl.load(context_ptr + row)
    table_row = table_ptr + row.to(tl.int64) * table_stride
    visible = context - q_len + query // heads + 1  # causal, bottom-right
    key_tiles = tl.cdiv(context, KEYS)
    tiles_per_split = tl.cdiv(key_tiles, splits)
    first_tile = split * tiles_per_split
    last_tile = tl.minimum(first_tile + tiles_per_split, key_tiles)

    # A tile that the context ends in goes without TMA, 16 keys at a time: fewer registers than a whole tile.
    REST: tl.constexpr = 16 if TMA else KEYS
    largest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    weighted = tl.zeros([QUERIES, LATENT], tl.float32)
    if TMA:
        whole_tiles = tl.minimum(last_tile, context // KEYS)
        for tile in tl.range(first_tile, whole_tiles, num_stages=STAGES):
            token = tl.load(table_row + tile * KEYS // BLOCK_SIZE) * BLOCK_SIZE + tile * KEYS % BLOCK_SIZE
            kv_latent = latent_desc.load([token, 0])
            k_rope = rope_desc.load([token, LATENT])
            position = tile * KEYS + tl.arange(0, KEYS)
            largest, total, weighted = _attend_tile(
                q_latent, q_rope, kv_latent, k_rope, position, visible, scale_log2, largest, total, weighted
            )
        first_tile = tl.maximum(first_tile, whole_tiles) * (KEYS // REST)
        last_tile = tl.minimum(last_tile * (KEYS // REST), tl.cdiv(context, REST))
    for tile in tl.range(first_tile, last_tile, num_stages=1 if TMA else STAGES, disable_licm=TMA):
        position = tile * REST + tl.arange(0, REST)
        # Behind the context may be a stale NaN, which a zero weight does not stop: load the last token again instead.
        loaded = tl.minimum(position, context - 1)
        if BLOCK_SIZE % REST == 0:  # one block holds the whole tile: a scalar base saves registers
            block = tl.load(table_row + tile * REST // BLOCK_SIZE).to(tl.int64)
        else:
            block = tl.load(table_row + loaded // BLOCK_SIZE).to(tl.int64)[:, None]
        source = kv_ptr + block * block_stride + (loaded % BLOCK_SIZE * token_stride)[:, None]
        kv_latent = tl.load(source + latent[None, :])
        k_rope = tl.load(source + rope[None, :])
        if EIGHT_BITS:
            kv_latent = kv_latent.to(tl.float16)
            k_rope = k_rope.to(tl.float16)
        largest, total, weighted = _attend_tile(
            q_latent, q_rope, kv_latent, k_rope, position, visible, scale_log2, largest, total, weighted
        )

    seen = total > 0
    lse = tl.where(seen, (largest + tl.log2(tl.where(seen, total, 1.0))) * 0.6931471805599453, float("-inf"))
    out = weighted * (cache_scale / tl.where(seen, total, 1.0))[:, None]
    target = (row.to(tl.int64) * splits + split) * queries + query
    tl.store(lse_ptr + target, lse, mask=is_query)
    target = target[:, None] * LATENT + latent[None, :]
    tl.store(out_ptr + target, out.to(out_ptr.dtype.element_ty), mask=is_query[:, None])


@register(
    "mla_decode",
    name="triton_split_kv_fp8",
    band=Band.PORTABLE,
    platforms=_FP8_PLATFORMS,
    dtypes=_DTYPES,
    traits={"cache_bits": exactly(8)},
)
@register(
    "mla_decode",
    name="triton_split_kv",
    band=Band.PORTABLE,
    platforms=_PLATFORMS,
    dtypes=_DTYPES,
    traits={"cache_bits": at_least(16)},
)
def mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    out: Tensor,
    lse: Tensor,
    plan: MlaPlan | None = None,
    cache_scale: float = 1.0,
    tile: Tile | None = None,
    splits: int | None = None,
    workspace: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Launch the two kernels, or the first alone if there is one split. Arguments as in the public `mla_decode`, but
    `plan` is not used: rows are cut by shapes alone. And:

    tile, splits: instead of those that `choose_tile` and `choose_splits` take from the shapes. The bits of a row's
        result depend on these two and on the row, but not on its neighbours in the batch.
    workspace: float32 [rows, splits, q_len, heads, 512] and [rows, splits, q_len, heads] for the splits' results,
        written before they are read; allocated if not given.
    """
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    if rows * queries == 0:
        return
    arch, multiprocessors = device_limits(q.device)
    tile = tile or choose_tile(queries, arch, 8 * kv_cache.element_size())
    if splits is None:
        splits = choose_splits(rows, queries, block_table.shape[1] * kv_cache.shape[1], tile, multiprocessors)
    part_out, part_lse = out, lse
    if splits > 1:
        part_out, part_lse = workspace or (
            q.new_empty(rows, splits, q_len, heads, LATENT_DIM, dtype=torch.float32),
            q.new_empty(rows, splits, q_len, heads, dtype=torch.float32),
        )
    block_size = kv_cache.shape[1]
    use_tma = (
        kv_cache.dtype == q.dtype
        and tile.tma
        and block_size % tile.keys == 0
        and kv_cache.is_contiguous()
        and kv_cache.data_ptr() % 16 == 0
    )
    latent_desc = rope_desc = None
    if use_tma:
        tokens = kv_cache.view(-1, CACHED_DIM)
        latent_desc = TensorDescriptor.from_tensor(tokens, [tile.keys, LATENT_DIM])
        rope_desc = TensorDescriptor.from_tensor(tokens, [tile.keys, ROPE_DIM])
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        attend_split[(triton.cdiv(queries, tile.queries), splits, rows)](
            q.contiguous(),
            kv_cache,
            latent_desc,
            rope_desc,
            block_table,
            context_lens.contiguous(),
            part_out,
            part_lse,
            scale * cache_scale / math.log(2),
            cache_scale,
            kv_cache.stride(0),
            kv_cache.stride(1),
            block_table.stride(0),
            heads,
            q_len,
            splits,
            LATENT=LATENT_DIM,
            ROPE=ROPE_DIM,
            BLOCK_SIZE=block_size,
            QUERIES=tile.queries,
            KEYS=tile.keys,
            STAGES=tile.stages,
            TMA=use_tma,
            num_warps=tile.warps,
        )
        if splits > 1:
            shape, warps = merge_shape(splits)
            merge_splits[(triton.cdiv(queries, shape["QUERIES"]), LATENT_DIM // shape["COLUMNS"], rows)](
                part_out, part_lse, out, lse, queries, splits, **shape, num_warps=warps
            )


@functools.cache
def device_limits(device: torch.device) -> tuple[int, int]:
    """Compute capability (10 * major + minor) and multiprocessors."""
    if device.type != "cuda":
        return 90, 1  # interpreted: choose tiles like Hopper, fill one multiprocessor
    properties = torch.cuda.get_device_properties(device)
    return 10 * properties.major + properties.minor, properties.multi_processor_count
