"""Check and time the kernels of MLA decode on a CUDA machine, and print one JSON document.

    python benchmarks/kernels/mla_decode_check.py > result.json

Needs torch and triton only: the package is used from the source tree, installed or not. Progress goes to stderr. The
exit status is 1 if any result is wrong.

Checks: bfloat16 and float16 against the reference in float64 on the rounded inputs, with cache, results and
workspaces poisoned, the same bits twice, and CUDA graphs replayed with other lengths. Times: CUDA graph replays
between CUDA events, over enough copies of the cache that the L2 cache does not hold them, all kernels and the torch
reference in turns, median of the rounds.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor


def import_from_tree() -> tempfile.TemporaryDirectory[str]:
    """Make `tokenspeed.kernels` importable from this source tree, under the package's name whatever the folder's.

    Returns the temporary folder that holds the link, which must live as long as imports may happen.
    """
    folder = tempfile.TemporaryDirectory(prefix="tokenspeed-")
    package = Path(folder.name) / "tokenspeed"
    package.mkdir()
    (package / "kernels").symlink_to(Path(__file__).resolve().parents[2] / "kernels")
    sys.path.insert(0, folder.name)
    return folder


_LINK = import_from_tree()
from tokenspeed.kernels import explain, mla_decode  # noqa: E402
from tokenspeed.kernels.mla import gluon_hopper, triton_split_kv  # noqa: E402
from tokenspeed.kernels.mla.triton_split_kv import NARROW, WIDE, Tile, choose_splits  # noqa: E402

BLOCK_SIZE = 64
SCALE = 576**-0.5
TOLERANCE = {torch.bfloat16: 2.5e-3, torch.float16: 1e-3}
"""Bound of |out - oracle| / |oracle|; rounding the result alone costs 1.7e-3 in bfloat16 and 2e-4 in float16."""
LSE_TOLERANCE = 1e-3
ROTATED_BYTES = 512 * 2**20
"""Cache bytes that a timed round reads before it reads the same again."""
ROUNDS = 7
REFERENCE_ROUNDS = 3

RAGGED = [1, 63, 64, 65, 127, 2000, 0, 8191]
MANY_ROWS = [(37 * row) % 400 for row in range(300)]
IMBALANCED = [4641, 45118, 1730, 1696]
"""The lengths of ThunderMLA's example (Hazy Research, 2025)."""
# heads, q_len
CHECKED = [(16, 1), (16, 2), (16, 3), (16, 4), (32, 1), (32, 2), (32, 4), (128, 1), (128, 2), (20, 3)]
# How finely to cut the work: splits of each row (Triton) or parts of the batch (Gluon); None is the kernel's choice.
CUTS = [None, 1, 7, 64]
# heads, q_len, context of each row
TIMED = [
    (16, 1, [1_024] * 8),
    (16, 1, [8_192]),
    (16, 1, [8_192] * 32),
    (16, 1, [8_192] * 128),
    (16, 1, [51_200]),
    (16, 1, [51_200] * 16),
    (16, 1, [131_072] * 8),
    (16, 2, [51_200] * 16),
    (16, 4, [8_192] * 128),
    (16, 4, [51_200] * 16),
    (16, 4, IMBALANCED),
    (32, 1, [8_192] * 128),
    (32, 1, [51_200] * 16),
    (32, 2, [51_200]),
    (32, 2, [51_200] * 16),
    (32, 2, [131_072] * 8),
    (64, 1, [8_192] * 32),
    (128, 1, [8_192] * 32),
    (128, 1, [51_200] * 8),
    (128, 4, [8_192] * 32),
]


@dataclass(frozen=True)
class Batch:
    """Inputs of `mla_decode`, on the device."""

    q: Tensor
    kv_cache: Tensor
    block_table: Tensor
    context_lens: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.kv_cache, self.block_table, self.context_lens


def make_batch(contexts: list[int], heads: int, q_len: int, dtype: torch.dtype, device: torch.device) -> Batch:
    """Random rows over shuffled blocks; the cache is NaN outside the contexts, the table out of range behind them."""
    per_row = [-(-context // BLOCK_SIZE) for context in contexts]
    order = torch.randperm(sum(per_row) + 1, device=device).int()
    kv_cache = torch.randn(len(order), BLOCK_SIZE, 576, device=device).to(dtype)
    kv_cache[order[-1].long()] = torch.nan
    block_table = torch.full((len(contexts), max(per_row)), 2**30, dtype=torch.int32, device=device)
    used = 0
    for row, (context, blocks) in enumerate(zip(contexts, per_row, strict=True)):
        block_table[row, :blocks] = order[used : used + blocks]
        if context % BLOCK_SIZE:
            kv_cache[order[used + blocks - 1].long(), context % BLOCK_SIZE :] = torch.nan
        used += blocks
    q = torch.randn(len(contexts), q_len, heads, 576, device=device).to(dtype)
    return Batch(q, kv_cache, block_table, torch.tensor(contexts, dtype=torch.int32, device=device))


@dataclass(frozen=True)
class Variant:
    """A kernel in one configuration: the Triton kernel with a tile, or the Gluon kernel (`tile` None)."""

    tile: Tile | None

    def run(self, batch: Batch, out: Tensor, lse: Tensor, cut: int | None = None, poison: bool = False) -> None:
        """Run it, with `cut` splits or parts; `poison` the workspace, which then needs `cut`."""
        rows, q_len, heads, _ = batch.q.shape
        workspace = None
        if poison and cut is not None:
            results = (rows, cut) if self.tile else (cut + rows - 1,)
            workspace = poisoned(batch, *results, q_len, heads, 512), poisoned(batch, *results, q_len, heads)
        if self.tile:
            triton_split_kv.mla_decode(
                *batch.inputs, scale=SCALE, out=out, lse=lse, tile=self.tile, splits=cut, workspace=workspace
            )
        else:
            gluon_hopper.mla_decode(*batch.inputs, scale=SCALE, out=out, lse=lse, parts=cut, workspace=workspace)

    def run_poisoned(self, batch: Batch, cut: int | None) -> tuple[Tensor, Tensor]:
        """Run it into results, and a workspace, that are NaN until written."""
        rows, q_len, heads, _ = batch.q.shape
        cut = cut or self.own_cut(batch)
        out, lse = poisoned(batch, rows, q_len, heads, 512).to(batch.q.dtype), poisoned(batch, rows, q_len, heads)
        self.run(batch, out, lse, cut, poison=True)
        return out, lse

    def own_cut(self, batch: Batch) -> int:
        """The splits or parts that the kernel chooses."""
        rows, q_len, heads, _ = batch.q.shape
        blocks, queries = batch.block_table.shape[1], q_len * heads
        _, multiprocessors = triton_split_kv.device_limits(batch.q.device)
        if self.tile:
            return choose_splits(rows, queries, blocks * BLOCK_SIZE, self.tile, multiprocessors)
        return gluon_hopper.choose_parts(rows, queries, blocks, multiprocessors)


VARIANTS = {"triton_narrow": Variant(NARROW), "triton_wide": Variant(WIDE), "gluon_hopper": Variant(None)}


def poisoned(batch: Batch, *shape: int) -> Tensor:
    """A tensor of NaN on the batch's device."""
    return torch.full(shape, torch.nan, device=batch.q.device)


def errors(batch: Batch, out: Tensor, lse: Tensor) -> dict[str, Any]:
    """Errors against the reference in float64, and whether they are within the tolerances."""
    q, kv_cache, block_table, context_lens = batch.inputs
    exact, exact_lse = mla_decode(
        q.double(), kv_cache.double(), block_table, context_lens, scale=SCALE, kernel="reference"
    )
    seen = exact_lse.isfinite()
    rel_l2 = float((out.double() - exact).norm() / exact.norm())
    lse_error = float((lse[seen] - exact_lse[seen]).abs().max())
    empty_is_exact = bool((out[~seen] == 0).all()) and bool(torch.equal(lse.isneginf(), ~seen))
    # NaN compares false
    passed = rel_l2 <= TOLERANCE[q.dtype] and lse_error <= LSE_TOLERANCE and empty_is_exact
    return {"rel_l2": rel_l2, "lse_max_abs": lse_error, "empty_is_exact": empty_is_exact, "passed": passed}


def check(
    name: str, contexts: list[int], heads: int, q_len: int, cut: int | None, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """One case, run twice."""
    batch = make_batch(contexts, heads, q_len, dtype, device)
    first, second = VARIANTS[name].run_poisoned(batch, cut), VARIANTS[name].run_poisoned(batch, cut)
    same_bits = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    result = errors(batch, *first)
    result["passed"] = result["passed"] and same_bits
    case = {"kernel": name, "rows": len(contexts), "heads": heads, "q_len": q_len, "cut": cut}
    return {**case, "dtype": str(dtype).removeprefix("torch."), "same_bits_twice": same_bits, **result}


def captured(calls: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """The calls in one CUDA graph, after a warm-up that compiles the kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def check_graph(name: str, device: torch.device) -> dict[str, Any]:
    """Replay a graph after the contexts have become shorter, into results that are NaN again."""
    batch = make_batch([1000, 64, 3000, 129], 32, 2, torch.bfloat16, device)
    out, lse = poisoned(batch, 4, 2, 32, 512).to(batch.q.dtype), poisoned(batch, 4, 2, 32)
    graph = captured([functools.partial(VARIANTS[name].run, batch, out, lse)])
    batch.context_lens.copy_(torch.tensor([999, 1, 65, 0]))
    out.fill_(torch.nan)
    lse.fill_(torch.nan)
    graph.replay()
    return {"kernel": name, "graph_replayed_with_other_contexts": True, **errors(batch, out, lse)}


def elapsed_us(action: Callable[[], object]) -> float:
    """Microseconds on the device between events around `action`."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e3


def measure_read_bandwidth(device: torch.device) -> float:
    """Bytes per second that torch.sum reads from 2 GiB: the ceiling that decode is compared with."""
    data = torch.ones(2**30, dtype=torch.bfloat16, device=device)
    data.sum()
    return data.nbytes / min(elapsed_us(data.sum) for _ in range(10)) * 1e6


def time_shape(
    names: list[str], heads: int, q_len: int, contexts: list[int], bandwidth: float, device: torch.device
) -> dict[str, Any]:
    """Time each kernel and the torch reference on one batch in bfloat16, and check the results."""
    queries, rows = q_len * heads, len(contexts)
    first = make_batch(contexts, heads, q_len, torch.bfloat16, device)
    copies = max(1, min(64, -(-ROTATED_BYTES // first.kv_cache.nbytes)))
    batches = [first] + [
        Batch(first.q, first.kv_cache.clone(), first.block_table, first.context_lens) for _ in range(copies - 1)
    ]
    calls_per_round = max(copies, 16)
    rotation = [batches[index % copies] for index in range(calls_per_round)]
    graphs, results = {}, {}
    for name in names:
        variant = VARIANTS[name]
        results[name] = {"cut": variant.own_cut(first), **errors(first, *variant.run_poisoned(first, None))}
        out = first.q.new_empty(rows, q_len, heads, 512)
        lse = first.q.new_empty(rows, q_len, heads, dtype=torch.float32)
        graphs[name] = captured([functools.partial(variant.run, batch, out, lse) for batch in rotation])

    def reference() -> None:
        mla_decode(*first.inputs, scale=SCALE, kernel="reference")

    reference()
    times: dict[str, list[float]] = {name: [] for name in (*names, "reference")}
    for round_ in range(ROUNDS):
        for name, graph in graphs.items():
            times[name].append(elapsed_us(graph.replay) / calls_per_round)
        if round_ < REFERENCE_ROUNDS:
            times["reference"].append(elapsed_us(reference))
    bytes_read = sum(contexts) * 576 * 2
    flops = 2 * queries * sum(contexts) * (576 + 512)
    for name in names:
        us = statistics.median(times[name])
        results[name] |= {
            "us": us,
            "us_min_max": [min(times[name]), max(times[name])],
            "gigabytes_per_s": bytes_read / us * 1e-3,
            "tflop_per_s": flops / us * 1e-6,
            "part_of_read_bandwidth": bytes_read / us * 1e6 / bandwidth,
        }
    chosen = explain(
        "mla_decode", device=device, dtype=torch.bfloat16, heads=heads, q_len=q_len, block_size=64, dense_cache=1
    ).kernel.name
    shape = {"heads": heads, "q_len": q_len, "contexts": compact(contexts), "chosen": chosen, "cache_copies": copies}
    return {**shape, "reference_us": statistics.median(times["reference"]), "kernels": results}


def compact(contexts: list[int]) -> str:
    """128 x 8192, or the lengths one by one."""
    if len(set(contexts)) == 1:
        return f"{len(contexts)} x {contexts[0]}"
    return " ".join(map(str, contexts))


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index}"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        driver = f"unknown ({error})"
    return {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def progress(text: str) -> None:
    """Print to stderr, so that stdout stays one JSON document."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Check, time, print; the exit status is 1 if a result is wrong."""
    if not torch.cuda.is_available():
        progress("error: this check needs a CUDA device, and torch sees none")
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    report: dict[str, Any] = {"machine": machine(device)}
    hopper = report["machine"]["compute_capability"] == "9.0"
    names = [name for name in VARIANTS if hopper or name == "triton_narrow"]
    report["read_bandwidth_gigabytes_per_s"] = (bandwidth := measure_read_bandwidth(device)) * 1e-9
    cases = [(name, RAGGED, *shape, cut) for name in names for shape in CHECKED for cut in CUTS]
    cases += [(name, MANY_ROWS, 16, 2, cut) for name in names for cut in CUTS]
    report["checks"] = []
    for dtype in (torch.bfloat16, torch.float16):
        for case in cases:
            result = check(*case, dtype, device)
            report["checks"].append(result)
            if not result["passed"]:
                progress(f"WRONG {result}")
    report["checks"] += [check_graph(name, device) for name in names]
    progress(f"{len(report['checks'])} checks, {sum(check['passed'] for check in report['checks'])} passed")
    report["timings"] = []
    for shape in TIMED:
        timing = time_shape(names, *shape, bandwidth, device)
        report["timings"].append(timing)
        parts = [
            f"{name} {result['us']:.1f} us {result['part_of_read_bandwidth']:.0%} {result['tflop_per_s']:.0f} TF"
            for name, result in timing["kernels"].items()
        ]
        shown = f"{timing['heads']:3} heads, q_len {timing['q_len']}, {timing['contexts']:>22} ({timing['chosen']})"
        progress(f"{shown}: {' | '.join(parts)}")
        torch.cuda.empty_cache()
    timed = [result for timing in report["timings"] for result in timing["kernels"].values()]
    report["passed"] = all(result["passed"] for result in (*report["checks"], *timed))
    json.dump(report, sys.stdout, indent=1)
    print()
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
