"""Time MLA decode beside FlashMLA on a CUDA machine, and print one JSON document.

    python benchmarks/kernels/mla_decode.py [--anchor flash_mla.so] [--kernels NAME ...] [--quick] > result.json

Batch x context x heads x new tokens, and imbalanced batches, in bfloat16: CUDA graph replays over enough copies of the
cache that the L2 cache does not hold them, all kernels in turns, median of the rounds. The plan is made outside the
graph for every kernel that has one, as it serves all layers of a step.

--anchor: an extension module with FlashMLA's `dense_decode_fwd(q, k_cache, head_dim_v, lengths, block_table, scale,
    causal, metadata, num_splits)`, for instance `flash_mla/cuda*.so` of its installation
--kernels: measure these alone, in this order
--quick: one batch size of each kind

Every result is compared with the first kernel's on the same inputs (`difference`); numerics are the matter of
`tokenspeed kernels --check` and mla_numerics.py. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from typing import Any

import measuring
import torch
from measuring import TOKEN_BYTES, Call, Pool, progress
from torch import Tensor

from tokenspeed.kernels import mla_decode, plan_mla_decode

SCALE = 576**-0.5
CACHE_SCALE = 0.02
"""Standard normal values up to 8.96 fit float8_e4m3fn."""
BATCHES, CONTEXTS = (1, 4, 8, 16, 32, 64, 128), (1024, 8192, 51_200, 131_072)
SHAPES = ((16, 1), (16, 2), (16, 4), (32, 1), (32, 2), (32, 4), (128, 1), (128, 2), (128, 4))
IMBALANCED = ([4641, 45118, 1730, 1696], [131_072, 1024, 1024, 1024], [200_000] + [2000] * 31)
"""The first are the lengths of ThunderMLA's example (Hazy Research, 2025)."""


def shapes(quick: bool) -> list[tuple[int, int, list[int]]]:
    """heads, new tokens and contexts of each measurement."""
    batches = (1, 8, 128) if quick else BATCHES
    grid = [(h, q, [context] * batch) for h, q in SHAPES for context in CONTEXTS for batch in batches]
    return grid + [(h, q, contexts) for h, q in ((16, 1), (16, 4), (128, 1)) for contexts in IMBALANCED]


def calls_of(
    q: Tensor,
    pool: Pool,
    pool_fp8: Tensor,
    lengths: Tensor,
    tables: list[Tensor],
    anchor: Any,
    kernels: list[str] | None,
    count: int,
) -> dict[str, list[Call]]:
    """The calls of each kernel, `count` of them over the tables in turns."""
    rows, q_len, heads, _ = q.shape
    queries = q_len * heads
    plan = plan_mla_decode(lengths, q_len=q_len, heads=heads, max_context=tables[0].shape[1] * 64)
    out, lse = q.new_empty(rows, q_len, heads, 512), q.new_empty(rows, q_len, heads, dtype=torch.float32)
    metadata: list[Tensor | None] = [None, None]

    def run_anchor(table: Tensor) -> Tensor:
        cache = pool.cache.view(-1, 64, 1, 576)
        result, _, *metadata[:] = anchor.dense_decode_fwd(
            q, cache, 512, lengths, table, SCALE, True, metadata[0], metadata[1]
        )
        return result

    def run(kernel: str, cache: Tensor, cache_scale: float, table: Tensor) -> Tensor:
        mla_decode(
            q, cache, table, lengths, scale=SCALE, cache_scale=cache_scale, plan=plan, out=out, lse=lse, kernel=kernel
        )
        return out

    runs = {"flash_mla": run_anchor} if anchor is not None else {}
    runs["gluon_hopper"] = functools.partial(run, "gluon_hopper", pool.cache, 1.0)
    if queries <= 64:
        runs["triton_split_kv"] = functools.partial(run, "triton_split_kv", pool.cache, 1.0)
    runs["gluon_hopper_fp8"] = functools.partial(run, "gluon_hopper_fp8", pool_fp8, CACHE_SCALE)
    return {
        name: [functools.partial(own, tables[index % len(tables)]) for index in range(count)]
        for name, own in runs.items()
        if kernels is None or name in kernels
    }


def measure(
    heads: int,
    q_len: int,
    contexts: list[int],
    pool: Pool,
    pool_fp8: Tensor,
    anchor: Any,
    kernels: list[str] | None,
    roofs: dict[str, float],
) -> dict[str, Any]:
    """Time the kernels on one batch."""
    tables, tokens = pool.tables(contexts), sum(contexts)
    lengths = torch.tensor(contexts, dtype=torch.int32, device=pool.device)
    q = torch.randn(len(contexts), q_len, heads, 576, device=pool.device).bfloat16()
    count = max(len(tables), 2 if tokens > 2e6 else 4 if tokens > 5e5 else 16)
    calls = calls_of(q, pool, pool_fp8, lengths, tables, anchor, kernels, count)
    first: Tensor | None = None
    results: dict[str, Any] = {}
    for name, own in calls.items():
        result = own[0]().float().reshape(-1)  # type: ignore[attr-defined]
        first = result if first is None else first
        results[name] = {"difference": measuring.relative_error(result, first)}
    flops = 2 * heads * q_len * tokens * (576 + 512)
    roof = max(tokens * TOKEN_BYTES / roofs["read_bytes_per_s"], flops / roofs["bf16_flop_per_s"]) * 1e6
    for name, times in measuring.time_in_turns(calls, rounds=5).items():
        us = times["us"]
        results[name] |= times | {"tflop_per_s": flops / us * 1e-6, "bf16_roof": roof / us}
        results[name]["gigabytes_per_s"] = tokens * TOKEN_BYTES / us * 1e-3
        if name == "gluon_hopper_fp8":
            results[name]["gigabytes_per_s"] /= 2
    shown = contexts if len(set(contexts)) > 1 else contexts[0]
    times_shown = " ".join(f"{name} {own['us']:.1f} us ({own['bf16_roof']:.0%})" for name, own in results.items())
    progress(f"{heads:3} heads {q_len} tokens {len(contexts):3} x {str(shown)[:40]}: {times_shown}")
    return {
        "heads": heads,
        "q_len": q_len,
        "batch": len(contexts),
        "context": shown,
        "tokens": tokens,
        "kernels": results,
    }


def main() -> None:
    """Measure the ceilings, then all shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", help="FlashMLA's extension module")
    parser.add_argument("--kernels", nargs="+", help="measure these alone")
    parser.add_argument("--quick", action="store_true", help="fewer batch sizes")
    arguments = parser.parse_args()
    device = measuring.cuda_device()
    torch.manual_seed(0)
    anchor = measuring.load_module("flash_mla_dense", arguments.anchor) if arguments.anchor else None
    roofs = {
        "read_bytes_per_s": measuring.measure_read_bandwidth(device),
        "bf16_flop_per_s": measuring.measure_product_rate(device),
    }
    progress(f"ceilings {roofs}")
    pool = Pool(max(BATCHES) * max(CONTEXTS), device)
    pool_fp8 = torch.empty(pool.cache.shape, dtype=torch.float8_e4m3fn, device=device)
    for part, part_fp8 in zip(pool.cache.split(8192), pool_fp8.split(8192), strict=True):
        part_fp8.copy_((part / CACHE_SCALE).clamp(-448, 448))
    report: dict[str, Any] = {"machine": measuring.machine(device), "ceilings": roofs, "rows": []}
    for shape in shapes(arguments.quick):
        report["rows"].append(measure(*shape, pool, pool_fp8, anchor, arguments.kernels, roofs))
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
