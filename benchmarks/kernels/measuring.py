"""What the measurements of kernels share: machine, caches, CUDA graphs timed in turns, the anchor modules.

Needs torch and triton only: `tokenspeed.kernels` is used from the source tree, installed or not.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

BLOCK_SIZE = 64
TOKEN_BYTES = 576 * 2
"""Bytes of a cached token in bfloat16."""
ROTATED_BYTES = 400e6
"""Cache bytes that calls of a graph read before they read the same again, several times the L2 cache."""
MAX_ROTATION = 48

Call = Callable[[], object]


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


def load_module(name: str, path: str) -> Any:
    """Import a Python file or extension module from a path."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: {path} is not a Python module; give a .py or .so file")
    sys.path.insert(0, str(Path(path).resolve().parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cuda_device() -> torch.device:
    """The current CUDA device, or an error that says there is none."""
    if not torch.cuda.is_available():
        raise SystemExit("error: this measurement needs a CUDA device, and torch sees none")
    return torch.device("cuda", torch.cuda.current_device())


def machine(device: torch.device) -> dict[str, Any]:
    """What figures were measured on."""
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


class Pool:
    """A random paged cache, [blocks, 64, 576] bfloat16, and block tables of disjoint, shuffled blocks of it."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.device = device
        self.cache = torch.empty(-(-tokens // BLOCK_SIZE), BLOCK_SIZE, 576, dtype=torch.bfloat16, device=device)
        for part in self.cache.split(16_384):
            part.normal_()

    def tables(self, contexts: Sequence[int]) -> list[Tensor]:
        """As many block tables as it takes to rotate through ROTATED_BYTES, or as the pool and MAX_ROTATION allow."""
        blocks = [-(-context // BLOCK_SIZE) for context in contexts]
        total = sum(blocks)
        wanted = -(-int(ROTATED_BYTES) // (total * BLOCK_SIZE * TOKEN_BYTES))
        copies = max(1, min(MAX_ROTATION, wanted, len(self.cache) // total))
        order = torch.randperm(len(self.cache), device=self.device)[: copies * total].int()
        tables = []
        for own in order.split(total):
            table = torch.zeros(len(contexts), max(blocks), dtype=torch.int32, device=self.device)
            for row, part in enumerate(own.split(blocks)):
                table[row, : len(part)] = part
            tables.append(table)
        return tables


def captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """The calls in one CUDA graph, after a warm-up that compiles kernels. Keep alive what the calls write to."""
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


def elapsed_us(action: Call) -> float:
    """Microseconds on the device between events around `action`."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    action()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e3


def time_in_turns(calls: dict[str, Sequence[Call]], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one call of each name: one graph a name, replayed in turns; median, least and most of rounds."""
    graphs = {name: captured(own) for name, own in calls.items()}
    for graph in graphs.values():
        graph.replay()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, graph in graphs.items():
            times[name].append(elapsed_us(graph.replay) / len(calls[name]))
    return {name: {"us": statistics.median(own), "min": min(own), "max": max(own)} for name, own in times.items()}


def measure_read_bandwidth(device: torch.device) -> float:
    """Bytes per second that torch.sum reads from 2 GiB: the ceiling that decode is compared with."""
    data = torch.ones(2**30, dtype=torch.bfloat16, device=device)
    graph = captured([data.sum])
    return data.nbytes / min(elapsed_us(graph.replay) for _ in range(10)) * 1e6


def measure_product_rate(device: torch.device) -> float:
    """bfloat16 operations per second of an 8192 x 8192 x 8192 matrix product on random data."""
    a, b = torch.randn(2, 8192, 8192, device=device).bfloat16().unbind()
    graph = captured([lambda: a @ b] * 4)
    return 4 * 2 * 8192**3 / statistics.median(elapsed_us(graph.replay) for _ in range(5)) * 1e6


def relative_error(got: Tensor, exact: Tensor) -> float:
    """|got - exact| / |exact| over all values."""
    return float((got.double() - exact.double()).norm() / exact.double().norm())


def progress(text: str) -> None:
    """Print to stderr, so that stdout stays one JSON document."""
    print(text, file=sys.stderr, flush=True)
