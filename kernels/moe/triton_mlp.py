"""`moe_mlp` in Triton: tokens sorted by expert on the device, two grouped products, and a sum for each token.

The first product gathers its rows of x and applies the activation before it stores; the second multiplies by the
routing weights. The sum takes a token's results in the order of its experts: the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two
from .triton_grouped import multiply_groups

COLUMNS = 1024


@triton.jit  # type: ignore[untyped-decorator]
def sum_choices(
    result_ptr: tl.tensor,  # [tokens * top_k, hidden], sorted by expert
    place_ptr: tl.tensor,  # int32 [tokens, top_k], where the result of each choice is
    count_ptr: tl.tensor,  # int32, how many results there are: what lies behind them is undefined
    out_ptr: tl.tensor,  # [tokens, hidden]
    top_k: tl.tensor,
    hidden: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    """Grid: (tokens, hidden / COLUMNS)."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    count = tl.load(count_ptr)
    total = tl.zeros([COLUMNS], tl.float32)
    for choice in range(0, top_k):
        place = tl.load(place_ptr + token * top_k + choice).to(tl.int64)
        is_here = (column < hidden) & (place < count)
        total += tl.load(result_ptr + place * hidden + column, mask=is_here, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * hidden + column, total.to(out_ptr.dtype.element_ty), mask=column < hidden)


@register("moe_mlp", name="triton_grouped", band=Band.PORTABLE, platforms=PLATFORMS, dtypes=DTYPES)
def moe_mlp(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """Three launches, and torch's sort. Arguments as in the public `moe_mlp`."""
    (tokens, hidden), top_k = x.shape, experts.shape[1]
    out = torch.empty(tokens, hidden, dtype=x.dtype, device=x.device)
    if tokens * top_k == 0 or hidden == 0:
        return out.zero_()
    choices = tokens * top_k
    # Choices of no expert come last, behind the results of the last one.
    ordered, order = experts.flatten().where(experts.flatten() >= 0, len(down)).sort(stable=True)
    groups = torch.arange(len(down) + 1, dtype=torch.int32, device=x.device)
    offsets = torch.searchsorted(ordered, groups, out_int32=True)
    place = torch.empty(choices, dtype=torch.int32, device=x.device)
    place[order] = torch.arange(choices, dtype=torch.int32, device=x.device)
    source = (order // top_k).int()
    activated = multiply_groups(x, gate_up, offsets, rows=choices, source=source, gated=True)
    results = multiply_groups(activated, down, offsets, rows=choices, factors=weights.flatten()[order])
    columns = min(COLUMNS, next_power_of_two(hidden))
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be x's
        sum_choices[(tokens, triton.cdiv(hidden, columns))](
            results, place, offsets[-1:], out, top_k, hidden, COLUMNS=columns, num_warps=4
        )
    return out
