"""MLA decode at two large shapes, to be run under Nsight Compute: limited by reading, and by multiplying.

    ncu -k regex:attend_part --launch-skip 1 --section SpeedOfLight --section MemoryWorkloadAnalysis \
        --section ComputeWorkloadAnalysis --section WarpStateStats python benchmarks/kernels/profiled_mla.py

The first launch of each shape compiles and warms up.
"""

from __future__ import annotations

import measuring
import torch
from measuring import Pool

from tokenspeed.kernels import mla_decode, plan_mla_decode

# rows, context, heads, new tokens
SHAPES = ((64, 8192, 16, 1), (64, 8192, 128, 2))


def main() -> None:
    """Launch each shape twice."""
    device = measuring.cuda_device()
    torch.manual_seed(0)
    pool = Pool(1_200_000, device)
    for rows, context, heads, q_len in SHAPES:
        tables = pool.tables([context] * rows)
        lengths = torch.full((rows,), context, dtype=torch.int32, device=device)
        q = torch.randn(rows, q_len, heads, 576, device=device).bfloat16()
        plan = plan_mla_decode(lengths, q_len=q_len, heads=heads, max_context=context)
        for launch in range(2):
            table = tables[launch % len(tables)]
            mla_decode(q, pool.cache, table, lengths, scale=576**-0.5, plan=plan, kernel="gluon_hopper")
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
