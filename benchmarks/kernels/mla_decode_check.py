"""Check and time the Triton MLA decode on a CUDA machine, and print one JSON document.

    python benchmarks/kernels/mla_decode_check.py > result.json

Needs torch and triton only: the package is used from the source tree, installed or not. Progress goes to stderr. The
exit status is 1 if any result is wrong.

Checks: bfloat16 and float16 against the reference in float64 on the rounded inputs, with cache, results and workspaces
poisoned, and the same bits twice. Times: CUDA graph replays between CUDA events, over enough copies of the cache that
the L2 cache does not hold them, Triton and torch reference in turns, median of the rounds.
"""

from __future__ import annotations

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
from tokenspeed.kernels.mla import triton_split_kv  # noqa: E402
from tokenspeed.kernels.mla.triton_split_kv import NARROW, WIDE, Tile, choose_splits, choose_tile  # noqa: E402

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
# heads, q_len, splits (None: the kernel's choice)
CHECKED = [
    *((16, q_len, splits) for q_len in (1, 2, 3, 4) for splits in (None, 1, 7, 64)),
    *((32, q_len, splits) for q_len in (1, 2, 4) for splits in (None, 1)),
    *((128, q_len, splits) for q_len in (1, 2) for splits in (None, 1)),
]
# heads, q_len, context, rows
TIMED = [
    (16, 1, 1_024, 8),
    (16, 1, 8_192, 1),
    (16, 1, 8_192, 32),
    (16, 1, 8_192, 128),
    (16, 1, 51_200, 1),
    (16, 1, 51_200, 16),
    (16, 2, 51_200, 16),
    (16, 4, 8_192, 128),
    (16, 4, 51_200, 16),
    (32, 1, 51_200, 16),
    (32, 2, 51_200, 16),
    (128, 1, 8_192, 32),
    (128, 1, 51_200, 8),
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


def run_poisoned(batch: Batch, tile: Tile | None = None, splits: int | None = None) -> tuple[Tensor, Tensor]:
    """Run the Triton kernels into results, and a workspace if `splits` is given, that are NaN until written."""
    rows, q_len, heads, _ = batch.q.shape

    def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype, device=batch.q.device)

    out, lse = poisoned(rows, q_len, heads, 512, dtype=batch.q.dtype), poisoned(rows, q_len, heads)
    workspace = None
    if splits is not None:
        workspace = poisoned(rows, splits, q_len, heads, 512), poisoned(rows, splits, q_len, heads)
    triton_split_kv.mla_decode(
        *batch.inputs, scale=SCALE, out=out, lse=lse, tile=tile, splits=splits, workspace=workspace
    )
    return out, lse


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


def check(heads: int, q_len: int, splits: int | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """One case over ragged contexts, run twice."""
    batch = make_batch(RAGGED, heads, q_len, dtype, device)
    first, second = run_poisoned(batch, splits=splits), run_poisoned(batch, splits=splits)
    same_bits = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    result = errors(batch, *first)
    result["passed"] = result["passed"] and same_bits
    case = {"heads": heads, "q_len": q_len, "splits": splits, "dtype": str(dtype).removeprefix("torch.")}
    return {**case, "same_bits_twice": same_bits, **result}


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
    heads: int, q_len: int, context: int, rows: int, bandwidth: float, device: torch.device
) -> dict[str, Any]:
    """Time each tile and the torch reference on one shape in bfloat16, and check the results."""
    queries = q_len * heads
    arch, multiprocessors = triton_split_kv.device_limits(device)
    first = make_batch([context] * rows, heads, q_len, torch.bfloat16, device)
    copies = max(1, min(64, -(-ROTATED_BYTES // first.kv_cache.nbytes)))
    batches = [first] + [
        Batch(first.q, first.kv_cache.clone(), first.block_table, first.context_lens) for _ in range(copies - 1)
    ]
    calls_per_round = max(copies, 16)
    tiles = {"narrow": NARROW, "wide": WIDE} if arch == 90 else {"narrow": NARROW}
    chosen = choose_tile(queries, arch)
    graphs, results = {}, {}
    for name, tile in tiles.items():
        splits = choose_splits(rows, queries, first.block_table.shape[1] * BLOCK_SIZE, tile, multiprocessors)
        results[name] = {
            "chosen": tile is chosen,
            "splits": splits,
            **errors(first, *run_poisoned(first, tile, splits)),
        }
        out = first.q.new_empty(rows, q_len, heads, 512)
        lse = first.q.new_empty(rows, q_len, heads, dtype=torch.float32)

        def call(batch: Batch, tile: Tile = tile, out: Tensor = out, lse: Tensor = lse) -> None:
            triton_split_kv.mla_decode(*batch.inputs, scale=SCALE, out=out, lse=lse, tile=tile)

        rotation = [batches[index % copies] for index in range(calls_per_round)]
        graphs[name] = captured([lambda batch=batch, call=call: call(batch) for batch in rotation])  # type: ignore[misc]

    def reference() -> None:
        mla_decode(*first.inputs, scale=SCALE, kernel="reference")

    reference()
    times: dict[str, list[float]] = {name: [] for name in (*tiles, "reference")}
    for round_ in range(ROUNDS):
        for name, graph in graphs.items():
            times[name].append(elapsed_us(graph.replay) / calls_per_round)
        if round_ < REFERENCE_ROUNDS:
            times["reference"].append(elapsed_us(reference))
    reference_us = statistics.median(times["reference"])
    bytes_read = rows * context * 576 * 2
    flops = 2 * rows * queries * context * (576 + 512)
    for name in tiles:
        us = statistics.median(times[name])
        results[name] |= {
            "us": us,
            "us_min_max": [min(times[name]), max(times[name])],
            "gigabytes_per_s": bytes_read / us * 1e-3,
            "tflop_per_s": flops / us * 1e-6,
            "part_of_read_bandwidth": bytes_read / us * 1e6 / bandwidth,
            "reference_over_triton": reference_us / us,
        }
    shape = {"heads": heads, "q_len": q_len, "context": context, "rows": rows, "cache_copies": copies}
    return {**shape, "reference_us": reference_us, "tiles": results}


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
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    if not torch.cuda.is_available():
        progress("error: this check needs a CUDA device, and torch sees none")
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    report: dict[str, Any] = {"machine": machine(device)}
    selection = explain("mla_decode", device=device, dtype=torch.bfloat16, heads=16, q_len=1, block_size=BLOCK_SIZE)
    report["selection"] = str(selection).splitlines()
    report["read_bandwidth_gigabytes_per_s"] = (bandwidth := measure_read_bandwidth(device)) * 1e-9
    report["checks"] = []
    for dtype in (torch.bfloat16, torch.float16):
        for heads, q_len, splits in CHECKED:
            result = check(heads, q_len, splits, dtype, device)
            report["checks"].append(result)
            progress(f"check {result}")
    report["timings"] = []
    for shape in TIMED:
        result = time_shape(*shape, bandwidth, device)
        report["timings"].append(result)
        progress(f"time {result}")
        torch.cuda.empty_cache()
    tiles = [tile for timing in report["timings"] for tile in timing["tiles"].values()]
    report["passed"] = all(result["passed"] for result in (*report["checks"], *tiles))
    json.dump(report, sys.stdout, indent=1)
    print()
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
