"""Decode of paged grouped-query attention: planned and not, in several tiles, beside torch's dense SDPA.

    python benchmarks/kernels/paged_decode.py > results/paged_decode_DEVICE.json

32 query heads over 8 key-value heads of 128 values in bfloat16, blocks of 64 tokens: a layer of Llama-3-8B. Prints the
microseconds of a call, and the bandwidth at which keys and values are read. `dense` has no pages: it is torch's SDPA
over one tensor, for batches of one length.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import measuring
import torch
from torch.nn.functional import scaled_dot_product_attention

from tokenspeed.kernels import plan_paged_attention
from tokenspeed.kernels.attention.triton_planned import PieceTile, attend_planned
from tokenspeed.kernels.attention.triton_ragged import paged_attention
from tokenspeed.kernels.workbench.timing import measure

HEADS, KV_HEADS, DIM, BLOCK = 32, 8, 128, 64
MAX_CONTEXT = 131072
BATCHES = {
    "1 x 1k": [1024],
    "1 x 8k": [8192],
    "1 x 51k": [51200],
    "8 x 8k": [8192] * 8,
    "8 x 50k": [50000] * 8,
    "32 x 1k": [1024] * 32,
    "32 x 8k": [8192] * 32,
    "64 x 8k": [8192] * 64,
    "128 x 1k": [1024] * 128,
    "127 x 1k and 1 x 50k": [1024] * 127 + [50000],
    "32 from 100 to 50k": [100 + 1600 * i for i in range(32)],
}
TILES = {
    f"{keys}k{warps}w{stages}s": PieceTile(keys, warps, stages)
    for keys, warps, stages in ((64, 4, 2), (64, 4, 3), (64, 4, 4), (32, 4, 4), (64, 8, 3))
}
PROGRAMS = (1, 2, 3)


def main() -> None:
    """Measure and print."""
    device = measuring.cuda_device()
    tokens = max(sum(-(-c // BLOCK) * BLOCK for c in contexts) for contexts in BATCHES.values())
    caches = [
        torch.empty(tokens // BLOCK, BLOCK, KV_HEADS, DIM, dtype=torch.bfloat16, device=device).normal_()
        for _ in range(2)
    ]
    report: dict[str, Any] = {"machine": measuring.machine(device), "batches": {}}
    sms = torch.cuda.get_device_properties(device).multi_processor_count
    for name, contexts in BATCHES.items():
        rows, total = len(contexts), sum(contexts)
        lengths = torch.tensor(contexts, dtype=torch.int32, device=device)
        columns = MAX_CONTEXT // BLOCK
        order = torch.randperm(len(caches[0]), device=device).int()
        table = torch.zeros(rows, columns, dtype=torch.int32, device=device)
        used = 0
        for row, context in enumerate(contexts):
            count = -(-context // BLOCK)
            table[row, :count] = order[used : used + count]
            used += count
        starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        q = torch.randn(rows, HEADS, DIM, device=device).bfloat16()
        out = torch.empty_like(q)
        batch = (q, *caches, table, lengths)
        calls: dict[str, Any] = {
            "unplanned": [
                lambda batch=batch, starts=starts, out=out: paged_attention(*batch, starts, scale=0.088, out=out)
            ],
        }
        exact = torch.empty_like(q)
        paged_attention(*batch, starts, scale=0.088, out=exact, splits=1)
        errors = {}
        for per in PROGRAMS:
            plan = plan_paged_attention(
                lengths,
                row_tokens=1,
                heads=HEADS,
                kv_heads=KV_HEADS,
                head_dim=DIM,
                max_context=MAX_CONTEXT,
                programs=max(1, per * sms // KV_HEADS),
            )
            for tile_name, tile in TILES.items():
                call = lambda batch=batch, out=out, plan=plan, tile=tile: attend_planned(  # noqa: E731
                    *batch, scale=0.088, out=out, plan=plan, tile=tile
                )
                out.fill_(torch.nan)
                call()
                errors[f"planned {per}x {tile_name}"] = measuring.relative_error(out, exact)
                calls[f"planned {per}x {tile_name}"] = [call]
            calls[f"fill {per}x"] = [lambda plan=plan, lengths=lengths: plan.fill(lengths)]
        if len(set(contexts)) == 1 and rows * contexts[0] <= tokens:
            k, v = (c.view(-1)[: total * KV_HEADS * DIM].view(rows, KV_HEADS, contexts[0], DIM) for c in caches)
            calls["dense"] = [
                lambda q=q, k=k, v=v: scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True, scale=0.088)
            ]
        times = {n: statistics.median(t) for n, t in measure(calls, device, rounds=5).items()}
        bytes_read = total * 2 * KV_HEADS * DIM * 2
        report["batches"][name] = {"us": times, "relative_error": errors, "bytes": bytes_read}
        best = min((n for n in times if n.startswith("planned")), key=lambda n: times[n])
        measuring.progress(
            f"{name:22} unplanned {times['unplanned']:8.1f} us, dense {times.get('dense', float('nan')):8.1f}, default "
            f"{times['planned 2x 64k4w2s']:8.1f}, best {times[best]:8.1f} ({best}; "
            f"{bytes_read / times[best] / 1e6:.2f} TB/s), fill {times['fill 2x']:.1f}, error {max(errors.values()):.1e}"
        )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
