"""What the Gluon kernels of `mla_decode` share on the host: the plan, the queries' layout, both launches, descriptors.

Each of these kernels works at one part of the batch, as a plan divides it (`plan.py`), and leaves rows that are cut to
the merge (`merge.py`). Their last parameters are the same:

    table_ptr, context_ptr, parts_ptr, out_ptr, lse_ptr, part_out_ptr, part_lse_ptr, <scalars>, table_stride, heads,
    q_len
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .merge import merge
from .plan import MlaPlan, plan_mla_decode
from .tuning import TILE

BLOCK_SIZE = TILE
"""Tokens of a key tile, and of a block of the cache: one block table entry for each tile."""
QUERIES = 64
"""Queries of a program."""

_ELEMENTS = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.float8_e4m3fn: gl.float8e4nv}


def attend_in_parts(
    kernel: Any,
    inputs: Callable[[Tensor], tuple[object, ...]],
    scalars: tuple[float, ...],
    q: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    out: Tensor,
    lse: Tensor,
    plan: MlaPlan | None,
    **options: int,
) -> None:
    """Launch `kernel` for 64 queries and one part a program, and the merge of the rows that the plan cuts.

    inputs: from q, contiguous and at a 16-byte boundary, the kernel's first arguments: descriptors, queries, cache
    scalars: what follows the buffers, the scale first
    options: of the launch, such as `num_warps`
    The others as in the public `mla_decode`. Without a plan one is made.

    The bits of a row's result depend on where the plan cuts it, and so on its neighbours in the batch; for the same
    batch they are the same.
    """
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    if rows * queries == 0:
        return
    if plan is None:
        plan = plan_mla_decode(context_lens, q_len=q_len, heads=heads, max_context=block_table.shape[1] * BLOCK_SIZE)
    q = q.contiguous()
    if q.data_ptr() % 16:
        q = q.clone()
    with torch.cuda.device_of(q):  # Triton launches on the current device, which need not be q's
        kernel[(triton.cdiv(queries, QUERIES), plan.parts.shape[0])](
            *inputs(q),
            block_table,
            context_lens.contiguous(),
            plan.parts,
            out,
            lse,
            plan.part_out,
            plan.part_lse,
            *scalars,
            block_table.stride(0),
            heads,
            q_len,
            launch_pdl=True,
            **options,
        )
        merge(plan.part_out, plan.part_lse, plan.cuts, out, lse, after_launch=True)


def descriptor(values: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """TMA descriptor of values [..., n] as a matrix of n columns, in boxes of rows by columns."""
    matrix = values.view(-1, values.shape[-1])
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], _ELEMENTS[values.dtype])
    return TensorDescriptor.from_tensor(matrix, [rows, columns], layout)
