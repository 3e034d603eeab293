"""`grouped_gemm` in Triton, and the launch that `moe_mlp` shares with it.

Tiles of rows never span groups. The grid has room for all tiles whatever the groups' sizes, rows / TILE + groups, and a
program finds its group from `offsets` on the device, so nothing is synchronised and the grid depends on shapes only.

The tiles of the same rows are neighbours in the grid, and those of the same group follow: what runs at the same time
shares some rows and the matrices of a few groups, which the L2 cache holds, so that both are read from memory once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS
from .tile import Tile, tile_for


@triton.jit(do_not_specialize=["groups"])  # type: ignore[untyped-decorator]
def multiply_tile(
    x_ptr: tl.tensor,  # [*, inner] with stride
    row_ptr: tl.tensor,  # int32 [rows], the row of x that each row takes, if GATHERED
    weight_ptr: tl.tensor,  # [groups, columns, inner], twice the columns if GATED, with strides
    factor_ptr: tl.tensor,  # float32 [rows], factors of the results, if SCALED
    offset_ptr: tl.tensor,  # int32 [groups + 1]
    out_ptr: tl.tensor,  # [rows, columns]
    groups: tl.tensor,
    columns: tl.tensor,
    inner: tl.tensor,
    x_stride: tl.tensor,
    group_stride: tl.tensor,
    column_stride: tl.tensor,
    GATHERED: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """One tile of x @ weight[group].T, or of silu(gate) * up of its two halves. Grid: (rows / ROWS + groups) times
    (columns / COLUMNS) programs, the columns of a tile of rows one after another."""
    column_tiles = tl.cdiv(columns, COLUMNS)
    tile = tl.program_id(0) // column_tiles
    # Group g has the tiles from offsets[g] / ROWS + g on: a number that grows, and leaves room for all of its tiles.
    group = -1
    for chunk in range(0, groups, 128):
        index = chunk + tl.arange(0, 128)
        begin = tl.load(offset_ptr + index, mask=index < groups, other=0)
        group += tl.sum(((begin // ROWS + index <= tile) & (index < groups)).to(tl.int32), 0)
    group_begin = tl.load(offset_ptr + group)
    group_end = tl.load(offset_ptr + group + 1)
    first = group_begin + (tile - (group_begin // ROWS + group)) * ROWS
    if first >= group_end:
        return

    row = first + tl.arange(0, ROWS)
    is_row = row < group_end
    source = row
    if GATHERED:
        source = tl.load(row_ptr + row, mask=is_row, other=0)
    column = tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    term = tl.arange(0, INNER)
    x_tile = x_ptr + source.to(tl.int64)[:, None] * x_stride + term[None, :]
    weight_tile = weight_ptr + tl.cast(group, tl.int64) * group_stride
    weight_tile += column.to(tl.int64)[:, None] * column_stride + term[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    up_total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in tl.range(0, inner, INNER, num_stages=STAGES):
        is_term = (begin + term < inner)[None, :]
        x = tl.load(x_tile + begin, mask=is_row[:, None] & is_term, other=0.0)
        is_weight = (column < columns)[:, None] & is_term
        weight = tl.load(weight_tile + begin, mask=is_weight, other=0.0)
        total = tl.dot(x, tl.trans(weight), total, input_precision=PRECISION)
        if GATED:
            up = tl.load(weight_tile + columns.to(tl.int64) * column_stride + begin, mask=is_weight, other=0.0)
            up_total = tl.dot(x, tl.trans(up), up_total, input_precision=PRECISION)
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * up_total
    if SCALED:
        total = total * tl.load(factor_ptr + row, mask=is_row, other=0.0)[:, None]
    target = out_ptr + row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=is_row[:, None] & (column < columns)[None, :])


def multiply_groups(
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    *,
    rows: int,
    source: Tensor | None = None,
    factors: Tensor | None = None,
    gated: bool = False,
    tile: Tile | None = None,
) -> Tensor:
    """Launch `multiply_tile` for [rows, columns] in x's dtype.

    source: int32 [rows], the row of x that each row takes; its own if not given
    factors: float32 [rows], by which results are multiplied
    gated: whether `weight` holds a gate and factors, columns each
    tile: instead of the one that `tile_for` takes from the shapes and the device
    """
    groups, columns = weight.shape[0], weight.shape[1] // (2 if gated else 1)
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    x = x if x.stride(1) == 1 else x.contiguous()
    weight = weight if weight.stride(2) == 1 else weight.contiguous()
    tile = tile or tile_for(rows, groups, gated, x.element_size(), x.device)
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be x's
        multiply_tile[((rows // tile.rows + groups) * triton.cdiv(columns, tile.columns),)](
            x,
            offsets if source is None else source,
            weight,
            offsets if factors is None else factors,
            offsets.contiguous(),
            out,
            groups,
            columns,
            x.shape[1],
            x.stride(0),
            *weight.stride()[:2],
            GATHERED=source is not None,
            GATED=gated,
            SCALED=factors is not None,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            INNER=tile.inner,
            STAGES=tile.stages,
            PRECISION="tf32x3" if x.dtype == torch.float32 else "tf32",
            num_warps=tile.warps,
        )
    return out


@register("grouped_gemm", name="triton_grouped", band=Band.PORTABLE, platforms=PLATFORMS, dtypes=DTYPES)
def grouped_gemm(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """One launch. Arguments as in the public `grouped_gemm`."""
    return multiply_groups(x, weight, offsets, rows=len(x))
