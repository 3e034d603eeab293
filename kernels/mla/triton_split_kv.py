"""`mla_decode` in plain Triton: attention over parts of the contexts, then a merge.

The parts are those of the plan (`plan.py`), if there is one: one long context among short ones is then shared by all
multiprocessors. Without a plan each row is cut into the same number of splits, by shapes alone: Flash-Decoding (Dao et
al. 2023, https://crfm.stanford.edu/2023/10/12/flashdecoding.html). The online softmax is that of Milakov and Gimelshein
(arXiv:1805.02867). The q_len * heads queries of a row form one matrix, since all of them read the same cached values;
each cached value is loaded once and serves as key and as value.

Everything that varies from step to step (heads, q_len, parts, lengths) is a run-time argument: nothing is compiled or
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
from .merge import merge, merge_shape, merge_splits
from .triton_tile import attend_range, store_queries

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

NARROW_ALONE = Tile(queries=16, keys=64, warps=4, stages=5, programs_per_multiprocessor=1)
"""The same with twice as much on the way from memory, for one program on a multiprocessor of 227 KiB of shared memory:
what a plan has for rows of at most 16 queries."""

WIDE = Tile(queries=64, keys=64, warps=8, stages=2, programs_per_multiprocessor=1, tma=True)
"""wgmma tile for Hopper: a quarter of the cache reads for many queries. With 4 warps it would spill registers."""


EIGHT_BIT = Tile(queries=16, keys=128, warps=8, stages=2, programs_per_multiprocessor=1)
"""Tile for an 8-bit cache where a block may have 125,440 bytes of shared memory."""

EIGHT_BIT_PLANNED = Tile(queries=16, keys=128, warps=8, stages=5, programs_per_multiprocessor=1)
"""The same for a plan, under which it would spill registers with fewer stages."""

SMALL_EIGHT_BIT = Tile(queries=16, keys=64, warps=8, stages=2, programs_per_multiprocessor=1)
"""The tile for an 8-bit cache within 99 KiB."""


def choose_tile(queries: int, arch: int, cache_bits: int = 16, *, planned: bool = False) -> Tile:
    """The tile for a row of `queries` = q_len * heads on compute capability `arch` (10 * major + minor).

    planned: whether there is a plan, which has one program a multiprocessor for every 64 queries

    Up to 32 queries, two narrow tiles are at least as fast as a wide one, half of which would be empty.
    """
    large = arch in (90, 100, 103)
    if cache_bits == 8:
        return SMALL_EIGHT_BIT if not large else EIGHT_BIT_PLANNED if planned else EIGHT_BIT
    if planned and large and queries <= NARROW_ALONE.queries:
        return NARROW_ALONE
    return WIDE if arch == 90 and queries > 2 * NARROW.queries else NARROW


def choose_splits(rows: int, queries: int, max_context: int, tile: Tile, multiprocessors: int) -> int:
    """Into how many parts to cut each context: enough to fill the device, none shorter than two tiles of keys."""
    programs = rows * -(-queries // tile.queries)
    fill = multiprocessors * tile.programs_per_multiprocessor // programs
    return max(1, min(fill, -(-max_context // (2 * tile.keys))))


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
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    context = tl.load(context_ptr + row)
    table_row = table_ptr + row.to(tl.int64) * table_stride
    length = tl.cdiv(tl.cdiv(context, KEYS), splits) * KEYS
    out, lse = attend_range(
        q_ptr, kv_ptr, latent_desc, rope_desc, table_row, row, query, context, split * length, (split + 1) * length,
        scale_log2, cache_scale, block_stride, token_stride, heads, q_len, LATENT, ROPE, BLOCK_SIZE, KEYS, STAGES, TMA,
    )  # fmt: skip
    queries = q_len * heads
    first = (row.to(tl.int64) * splits + split) * queries
    store_queries(out_ptr, lse_ptr, first, query, queries, out, lse, LATENT)


@triton.jit(do_not_specialize=["table_stride", "heads", "q_len", "rows", "parts"])  # type: ignore[untyped-decorator]
def attend_piece(
    q_ptr: tl.tensor,  # as in `attend_split`, and so are those without a comment
    kv_ptr: tl.tensor,
    latent_desc: tl.tensor,
    rope_desc: tl.tensor,
    table_ptr: tl.tensor,
    context_ptr: tl.tensor,
    parts_ptr: tl.tensor,  # int32 [parts, 4], see `MlaPlan`
    out_ptr: tl.tensor,  # [rows, queries, 512]
    lse_ptr: tl.tensor,  # float32 [rows, queries]
    part_out_ptr: tl.tensor,  # float32 [parts + rows - 1, queries, 512]
    part_lse_ptr: tl.tensor,  # float32 [parts + rows - 1, queries]
    scale_log2: tl.tensor,
    cache_scale: tl.tensor,
    block_stride: tl.tensor,
    token_stride: tl.tensor,
    table_stride: tl.tensor,
    heads: tl.tensor,
    q_len: tl.tensor,
    rows: tl.tensor,
    parts: tl.tensor,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """Attention of QUERIES queries over a piece of a row: what one part of the plan has of it.

    A program for each slot of the plan's workspace, so that the loop over tiles is the only one; those whose slot
    stands for no piece end at once. PARTS: power of two, at least the plan's parts. Grid: (query tiles, slots).
    """
    slot = tl.program_id(1)
    number = tl.arange(0, PARTS)
    first_row = tl.load(parts_ptr + number * 4, mask=number < parts, other=2**30)
    part = tl.sum((number + first_row <= slot).to(tl.int32), 0) - 1
    row = slot - part
    if (part < 0) | (row >= rows):
        return
    begin = tl.load(parts_ptr + part * 4)
    tile = tl.load(parts_ptr + part * 4 + 1)
    left = tl.load(parts_ptr + part * 4 + 2)
    for chunk in range(begin, row, 32):  # the part's rows before this one
        index = chunk + tl.arange(0, 32)
        before = tl.load(context_ptr + index, mask=index < row, other=0)
        left -= tl.sum(tl.cdiv(before, 64), 0)
    if row > begin:
        left += tile
        tile = 0
    context = tl.load(context_ptr + row)
    tiles = tl.cdiv(context, 64)
    last = tl.minimum(tiles, tile + left)
    if tile >= last:
        return
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    queries = q_len * heads
    table_row = table_ptr + row.to(tl.int64) * table_stride
    # Where the result goes, in one register while the loop runs: a whole row's place, or -1 - the slot's.
    first = tl.where((tile == 0) & (last == tiles), row * queries, -1 - slot * queries)
    out, lse = attend_range(
        q_ptr, kv_ptr, latent_desc, rope_desc, table_row, row, query, context, tile * 64, last * 64, scale_log2,
        cache_scale, block_stride, token_stride, heads, q_len, LATENT, ROPE, BLOCK_SIZE, KEYS, STAGES, TMA,
    )  # fmt: skip
    if first >= 0:
        store_queries(out_ptr, lse_ptr, first.to(tl.int64), query, queries, out, lse, LATENT)
    else:
        store_queries(part_out_ptr, part_lse_ptr, (-1 - first).to(tl.int64), query, queries, out, lse, LATENT)


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
    """Launch two kernels, or the first alone if no row is cut. Arguments as in the public `mla_decode`, and:

    tile: instead of the one that `choose_tile` takes from the shapes
    splits: into how many parts to cut each row, instead of what `plan` says, or of what `choose_splits` takes from the
        shapes if there is none. Then the bits of a row's result depend on the row, the tile and the splits, but not on
        its neighbours in the batch; with a plan they do.
    workspace: float32 [rows, splits, q_len, heads, 512] and [rows, splits, q_len, heads] for the splits' results,
        written before they are read; allocated if not given.
    """
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    if rows * queries == 0:
        return
    arch, multiprocessors = device_limits(q.device)
    planned = plan is not None and splits is None
    tile = tile or choose_tile(queries, arch, 8 * kv_cache.element_size(), planned=planned)
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
    inputs = (q.contiguous(), kv_cache, latent_desc, rope_desc, block_table, context_lens.contiguous())
    scalars = (scale * cache_scale / math.log(2), cache_scale, *kv_cache.stride()[:2], block_table.stride(0))
    options = {
        "LATENT": LATENT_DIM,
        "ROPE": ROPE_DIM,
        "BLOCK_SIZE": block_size,
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "STAGES": tile.stages,
        "TMA": use_tma,
        "num_warps": tile.warps,
    }
    query_tiles = triton.cdiv(queries, tile.queries)
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        if plan is not None and splits is None:
            parts, buffers = plan.parts.shape[0], (plan.parts, out, lse, plan.part_out, plan.part_lse)
            attend_piece[(query_tiles, parts + rows - 1)](
                *inputs, *buffers, *scalars, heads, q_len, rows, parts, **options, PARTS=triton.next_power_of_2(parts)
            )
            merge(plan.part_out, plan.part_lse, plan.cuts, out, lse, after_launch=False)
            return
        if splits is None:
            splits = choose_splits(rows, queries, block_table.shape[1] * block_size, tile, multiprocessors)
        part_out, part_lse = out, lse
        if splits > 1:
            part_out, part_lse = workspace or (
                q.new_empty(rows, splits, q_len, heads, LATENT_DIM, dtype=torch.float32),
                q.new_empty(rows, splits, q_len, heads, dtype=torch.float32),
            )
        attend_split[(query_tiles, splits, rows)](
            *inputs, part_out, part_lse, *scalars, heads, q_len, splits, **options
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
