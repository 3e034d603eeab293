"""Check the kernels of MLA on a CUDA machine against float64, more widely than `tokenspeed kernels --check`.

    python benchmarks/kernels/mla_numerics.py > result.json

Decode (bfloat16, float16 and 8-bit caches) and prefill: ragged lengths, empty rows, splits and parts, many rows,
extreme scores; caches, results and workspaces are NaN before each run, blocks are shuffled; every case runs twice and
must give the same bits; a CUDA graph is replayed after lengths have changed. Exit status 1 if a result is wrong.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import measuring
import torch
from measuring import captured, progress, relative_error
from torch import Tensor

from tokenspeed.kernels import mla_decode, mla_prefill, plan_mla_decode

TOLERANCE = {torch.bfloat16: 2.5e-3, torch.float16: 1e-3}
LSE_TOLERANCE = 1e-3
RAGGED = [1, 63, 64, 65, 127, 2000, 0, 8191]
MANY_ROWS = [(37 * row) % 400 for row in range(300)]
IMBALANCED = [4641, 45118, 1730, 1696]
# heads, q_len
DECODED = [
    (16, 1),
    (16, 2),
    (16, 3),
    (16, 4),
    (16, 8),
    (32, 1),
    (32, 2),
    (32, 4),
    (128, 1),
    (128, 2),
    (128, 4),
    (20, 3),
]
PREFILLED = [
    ([128], [128], 1),
    ([1, 63, 64, 65, 200], [1, 63, 64, 65, 200], 2),
    ([100, 1, 300, 5], [700, 129, 257, 0], 3),
    ([130, 257], [1000, 513], 16),
]


class Batch:
    """Inputs of `mla_decode`; the cache is NaN outside the contexts, the table out of range behind them."""

    def __init__(
        self, contexts: list[int], heads: int, q_len: int, dtype: torch.dtype, bits: int, magnitude: float, device: Any
    ) -> None:
        per_row = [-(-context // 64) for context in contexts]
        order = torch.randperm(sum(per_row) + 1, device=device).int()
        values = torch.randn(len(order), 64, 576, device=device)
        self.unquantized = values.to(dtype).double()
        self.cache_scale = 0.02 if bits == 8 else 1.0
        nan = torch.zeros(len(order), 64, dtype=torch.bool, device=device)
        nan[order[-1].long()] = True
        self.table = torch.full((len(contexts), max(per_row)), 2**30, dtype=torch.int32, device=device)
        used = 0
        for row, (context, blocks) in enumerate(zip(contexts, per_row, strict=True)):
            self.table[row, :blocks] = order[used : used + blocks]
            if context % 64:
                nan[order[used + blocks - 1].long(), context % 64 :] = True
            used += blocks
        stored = (values / self.cache_scale).to(torch.float8_e4m3fn if bits == 8 else dtype)
        self.exact_cache = stored.double() * self.cache_scale
        self.cache = stored
        self.cache.view(torch.uint8 if bits == 8 else torch.int16)[nan] = 0x7F if bits == 8 else 0x7FFF
        self.q = (magnitude * torch.randn(len(contexts), q_len, heads, 576, device=device)).to(dtype)
        self.lengths = torch.tensor(contexts, dtype=torch.int32, device=device)

    def exact(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        """The definition in float64."""
        q, scale = self.q.double(), 576**-0.5
        return mla_decode(q, cache, self.table, self.lengths, scale=scale, kernel="reference")

    def run(self, kernel: str, programs: int | None) -> tuple[Tensor, Tensor]:
        """Run a kernel into results, and a workspace, that are NaN until written."""
        rows, q_len, heads, _ = self.q.shape
        max_context = self.table.shape[1] * 64
        plan = plan_mla_decode(self.lengths, q_len=q_len, heads=heads, max_context=max_context, programs=programs)
        plan.part_out.fill_(torch.nan)
        plan.part_lse.fill_(torch.nan)
        out = self.q.new_full((rows, q_len, heads, 512), torch.nan)
        lse = self.q.new_full((rows, q_len, heads), torch.nan, dtype=torch.float32)
        common: dict[str, Any] = {"scale": 576**-0.5, "cache_scale": self.cache_scale, "plan": plan}
        mla_decode(self.q, self.cache, self.table, self.lengths, out=out, lse=lse, kernel=kernel, **common)
        return out, lse


def judged(got: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], again: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Errors, and whether they are within the tolerances."""
    (out, lse), (exact_out, exact_lse) = got, exact
    seen = exact_lse.isfinite()
    result: dict[str, Any] = {
        "rel_l2": relative_error(out, exact_out),
        "lse_max_abs": float((lse[seen] - exact_lse[seen]).abs().max()),
        "empty_is_exact": bool((out[~seen] == 0).all()) and bool(torch.equal(lse.isneginf(), ~seen)),
        "same_bits_twice": all(torch.equal(a, b) for a, b in zip(got, again, strict=True)),
    }
    within = result["rel_l2"] <= TOLERANCE[out.dtype] and result["lse_max_abs"] <= LSE_TOLERANCE  # NaN compares false
    return result | {"passed": within and result["empty_is_exact"] and result["same_bits_twice"]}


def decode_cases(device: torch.device) -> list[dict[str, Any]]:
    """All cases of decode."""
    cases = [(RAGGED, *shape, (None, 1, 7)[index % 3], 1.0) for index, shape in enumerate(DECODED)]
    cases += [(RAGGED, 16, 4, programs, 1.0) for programs in (1, 7, 64)]
    cases += [(MANY_ROWS, 16, 2, None, 1.0), (IMBALANCED, 16, 4, None, 1.0), ([50_000], 16, 1, None, 1.0)]
    cases += [([65, 400, 1, 0, 300], heads, 1, programs, 50.0) for heads in (16, 32, 128) for programs in (None, 2)]
    results = []
    for dtype, bits in ((torch.bfloat16, 16), (torch.float16, 16), (torch.bfloat16, 8), (torch.float16, 8)):
        for contexts, heads, q_len, programs, magnitude in cases:
            batch = Batch(contexts, heads, q_len, dtype, bits, magnitude, device)
            exact, suffix = batch.exact(batch.exact_cache), "_fp8" if bits == 8 else ""
            for kernel in (f"gluon_hopper{suffix}", f"triton_split_kv{suffix}"):
                got = batch.run(kernel, programs)
                case = {"kernel": kernel, "rows": len(contexts), "heads": heads, "q_len": q_len, "programs": programs}
                case |= {"dtype": str(dtype).removeprefix("torch."), "score_magnitude": magnitude}
                case |= judged(got, exact, batch.run(kernel, programs))
                if bits == 8:
                    case["rel_l2_to_unquantized"] = relative_error(got[0], batch.exact(batch.unquantized)[0])
                results.append(case)
    return results


def graph_case(kernel: str, bits: int, device: torch.device) -> dict[str, Any]:
    """Replay a graph that refills the plan, after the contexts have become shorter, into results that are NaN again."""
    batch = Batch([1000, 64, 3000, 129], 32, 2, torch.bfloat16, bits, 1.0, device)
    plan = plan_mla_decode(batch.lengths, q_len=2, heads=32, max_context=3008)
    out = batch.q.new_empty(4, 2, 32, 512)
    lse = batch.q.new_empty(4, 2, 32, dtype=torch.float32)
    inputs = (batch.q, batch.cache, batch.table, batch.lengths)
    decode = functools.partial(
        mla_decode,
        *inputs,
        scale=576**-0.5,
        cache_scale=batch.cache_scale,
        plan=plan,
        out=out,
        lse=lse,
        kernel=kernel,
    )
    graph = captured([lambda: plan.fill(batch.lengths), decode])
    batch.lengths.copy_(torch.tensor([960, 1, 65, 0]))
    exact_cache = batch.exact_cache
    runs = []
    for _ in range(2):
        out.fill_(torch.nan)
        lse.fill_(torch.nan)
        graph.replay()
        runs.append((out.clone(), lse.clone()))
    # The cache behind the shorter contexts is not NaN here: they end within blocks that were full.
    return {"kernel": kernel, "graph_replayed": True, **judged(runs[0], batch.exact(exact_cache), runs[1])}


def prefill_cases(device: torch.device) -> list[dict[str, Any]]:
    """All cases of prefill."""
    results = []
    for new, keys, heads in PREFILLED:
        for causal in (True, False):
            for dtype in TOLERANCE:
                q = torch.randn(sum(new), heads, 192, device=device).to(dtype)
                k, v = (torch.randn(sum(keys), heads, width, device=device).to(dtype) for width in (192, 128))
                q_starts, kv_starts = (torch.tensor([0, *lens], device=device).cumsum(0).int() for lens in (new, keys))
                common: dict[str, Any] = {"scale": 192**-0.5, "causal": causal, "max_queries": max(new)}
                exact = mla_prefill(
                    q.double(), k.double(), v.double(), q_starts, kv_starts, kernel="reference", **common
                )
                for kernel in ("gluon_hopper", "triton_flash"):
                    runs = []
                    for _ in range(2):
                        out = q.new_full((len(q), heads, 128), torch.nan)
                        lse = q.new_full((len(q), heads), torch.nan, dtype=torch.float32)
                        mla_prefill(q, k, v, q_starts, kv_starts, out=out, lse=lse, kernel=kernel, **common)
                        runs.append((out, lse))
                    case = {"kernel": f"prefill {kernel}", "new": new, "keys": keys, "heads": heads, "causal": causal}
                    case["dtype"] = str(dtype).removeprefix("torch.")
                    results.append(case | judged(runs[0], exact, runs[1]))
    return results


def main() -> int:
    """Run all cases and print them."""
    device = measuring.cuda_device()
    torch.manual_seed(0)
    results = decode_cases(device) + prefill_cases(device)
    for bits, suffix in ((16, ""), (8, "_fp8")):
        results += [graph_case(f"{kernel}{suffix}", bits, device) for kernel in ("gluon_hopper", "triton_split_kv")]
    wrong = [result for result in results if not result["passed"]]
    for result in wrong:
        progress(f"WRONG {result}")
    progress(f"{len(results)} cases, {len(results) - len(wrong)} passed")
    json.dump({"machine": measuring.machine(device), "passed": not wrong, "cases": results}, sys.stdout, indent=1)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
