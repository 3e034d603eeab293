"""Time MLA prefill beside FlashAttention-3 on a CUDA machine, and print one JSON document.

    python benchmarks/kernels/mla_prefill.py [--anchor fa3_fwd_interface.py] > result.json

New tokens behind a cached prefix, causal, 192 values a key and 128 a value, bfloat16. The first five shapes are those
of TokenSpeed-MLA's README. Operations count visible pairs only.

--anchor: a module with FlashAttention-3's `flash_attn_varlen_func`; its file in an unpacked `fa3-fwd` wheel will do
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from typing import Any

import measuring
import torch
from measuring import Call, progress

from tokenspeed.kernels import mla_prefill

SCALE = 192**-0.5
# name, rows, new tokens of a row, keys of a row including them
SHAPES = (
    ("uc1", 1, 8192, 8192),
    ("uc2", 1, 8192, 32_768),
    ("uc3", 1, 8192, 65_536),
    ("uc4", 4, 512, 81_920),
    ("uc5", 4, 1024, 81_920),
    ("2k after 0", 1, 2048, 2048),
    ("2k after 64k", 1, 2048, 67_584),
    ("4k after 32k", 1, 4096, 36_864),
)


def measure(name: str, rows: int, new: int, keys: int, heads: int, anchor: Any, device: torch.device) -> dict[str, Any]:
    """Time all kernels on one shape."""
    q = torch.randn(rows * new, heads, 192, device=device, dtype=torch.bfloat16)
    k = torch.randn(rows * keys, heads, 192, device=device, dtype=torch.bfloat16)
    v = torch.randn(rows * keys, heads, 128, device=device, dtype=torch.bfloat16)
    q_starts, kv_starts = (
        torch.arange(0, rows * size + 1, size, dtype=torch.int32, device=device) for size in (new, keys)
    )
    out, lse = q.new_empty(len(q), heads, 128), q.new_empty(len(q), heads, dtype=torch.float32)

    def run(kernel: str) -> torch.Tensor:
        mla_prefill(
            q, k, v, q_starts, kv_starts, scale=SCALE, causal=True, max_queries=new, out=out, lse=lse, kernel=kernel
        )
        return out

    def run_anchor() -> torch.Tensor:
        result = anchor.flash_attn_varlen_func(
            q, k, v, q_starts, kv_starts, new, keys, softmax_scale=SCALE, causal=True
        )
        return result[0] if isinstance(result, tuple) else result

    calls: dict[str, list[Call]] = {} if anchor is None else {"fa3": [run_anchor] * 2}
    calls |= {kernel: [functools.partial(run, kernel)] * 2 for kernel in ("gluon_hopper", "triton_flash")}
    first: torch.Tensor | None = None
    results: dict[str, Any] = {}
    for kernel, own in calls.items():
        result = own[0]().float()  # type: ignore[attr-defined]
        first = result if first is None else first
        results[kernel] = {"difference": measuring.relative_error(result, first)}
    flops = 2 * heads * 320 * rows * (new * (keys - new) + new * (new + 1) / 2)
    for kernel, times in measuring.time_in_turns(calls, rounds=5).items():
        results[kernel] |= times | {"tflop_per_s": flops / times["us"] * 1e-6}
    shown = " ".join(f"{kernel} {own['us']:.0f} us {own['tflop_per_s']:.0f} TF" for kernel, own in results.items())
    progress(f"{name} {heads} heads: {shown}")
    return {"name": name, "rows": rows, "new": new, "keys": keys, "heads": heads, "kernels": results}


def main() -> None:
    """Time all shapes with the heads of a rank and of a whole model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", help="a module with flash_attn_varlen_func")
    arguments = parser.parse_args()
    device = measuring.cuda_device()
    torch.manual_seed(0)
    anchor = measuring.load_module("fa3_anchor", arguments.anchor) if arguments.anchor else None
    rate = measuring.measure_product_rate(device)
    report: dict[str, Any] = {"machine": measuring.machine(device), "bf16_flop_per_s": rate, "rows": []}
    for heads in (16, 128):
        for shape in SHAPES:
            report["rows"].append(measure(*shape, heads, anchor, device))
            torch.cuda.empty_cache()
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
