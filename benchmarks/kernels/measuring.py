"""What the measurements of kernels share: the source tree's kernels, machine, paged caches, ceilings, anchor modules.

Imported before `tokenspeed.kernels`, it makes that importable from the source tree: nothing need be installed but torch
and triton. Timing is that of `tokenspeed.kernels.workbench.timing`.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

if "tokenspeed" not in sys.modules:
    package = ModuleType("tokenspeed")
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["tokenspeed"] = package

from tokenspeed.kernels.workbench.hardware import machine as _machine
from tokenspeed.kernels.workbench.timing import captured, elapsed_us, measure

BLOCK_SIZE = 64
TOKEN_BYTES = 576 * 2
"""Bytes of a cached token in bfloat16."""
ROTATED_BYTES = 400e6
"""Cache bytes that calls of a graph read before they read the same again, several times the L2 cache."""
MAX_ROTATION = 48

Call = Callable[[], object]


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
    return _machine(device) | {"multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda}


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


def time_in_turns(calls: dict[str, Sequence[Call]], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one call of each name: one graph a name, replayed in turns; median, least and most of rounds."""
    times = measure(calls, cuda_device(), rounds=rounds)
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
