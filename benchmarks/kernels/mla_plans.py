"""Time MLA decode in plain Triton as a plan divides it and by shapes alone, beside Gluon, and print one JSON document.

    python benchmarks/kernels/mla_plans.py > result.json

The method is that of mla_decode.py. Results are compared with the first kernel's (`difference`).
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import measuring
import torch
from measuring import Call, Pool, progress
from torch import Tensor

from tokenspeed.kernels import mla_decode, plan_mla_decode

SCALE, CACHE_SCALE = 576**-0.5, 0.02
SHAPES = ((16, 1), (16, 4), (32, 1))
"""Heads and new tokens."""
CONTEXTS = (
    [1024],
    [8192] * 8,
    [1024] * 128,
    [8192] * 128,
    [51_200] * 16,
    [4641, 45118, 1730, 1696],
    [131_072, 1024, 1024, 1024],
    [200_000] + [2000] * 31,
)


def measure(heads: int, q_len: int, contexts: list[int], pool: Pool, pool_fp8: Tensor) -> dict[str, Any]:
    """Time all variants on one batch."""
    tables, device = pool.tables(contexts), pool.device
    lengths = torch.tensor(contexts, dtype=torch.int32, device=device)
    q = torch.randn(len(contexts), q_len, heads, 576, device=device).bfloat16()
    plan = plan_mla_decode(lengths, q_len=q_len, heads=heads, max_context=max(contexts))
    out, lse = q.new_empty(len(q), q_len, heads, 512), q.new_empty(len(q), q_len, heads, dtype=torch.float32)

    def run(kernel: str, planned: bool, table: Tensor) -> Tensor:
        cache, scale = (pool_fp8, CACHE_SCALE) if kernel.endswith("fp8") else (pool.cache, 1.0)
        inputs, given = (q, cache, table, lengths), plan if planned else None
        mla_decode(*inputs, scale=SCALE, cache_scale=scale, plan=given, out=out, lse=lse, kernel=kernel)
        return out

    variants = {"gluon_hopper": ("gluon_hopper", True)}
    for kernel in ("triton_split_kv", "triton_split_kv_fp8"):
        variants |= {f"{kernel}, plan": (kernel, True), f"{kernel}, shapes": (kernel, False)}
    count = max(len(tables), 4 if sum(contexts) > 4e5 else 16)
    calls: dict[str, list[Call]] = {
        name: [functools.partial(run, *variant, tables[index % len(tables)]) for index in range(count)]
        for name, variant in variants.items()
    }
    exact = calls["gluon_hopper"][0]().float().clone()  # type: ignore[attr-defined]
    results: dict[str, Any] = {}
    for name, own in calls.items():
        results[name] = {"difference": measuring.relative_error(own[0](), exact)}  # type: ignore[arg-type]
    for name, times in measuring.time_in_turns(calls, rounds=5).items():
        results[name] |= times
    shown = f"{len(contexts)} x {contexts[0]}"
    progress(f"{heads} heads {q_len} tokens {shown}: " + ", ".join(f"{n} {r['us']:.1f}" for n, r in results.items()))
    return {"heads": heads, "q_len": q_len, "contexts": contexts, "kernels": results}


def main() -> None:
    """Measure all shapes."""
    device = measuring.cuda_device()
    torch.manual_seed(0)
    pool = Pool(1_100_000, device)
    pool_fp8 = torch.empty(pool.cache.shape, dtype=torch.float8_e4m3fn, device=device)
    for part, part_fp8 in zip(pool.cache.split(8192), pool_fp8.split(8192), strict=True):
        part_fp8.copy_((part / CACHE_SCALE).clamp(-448, 448))
    rows = [measure(*shape, contexts, pool, pool_fp8) for shape in SHAPES for contexts in CONTEXTS]
    json.dump({"machine": measuring.machine(device), "rows": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
