"""How `mla_decode` divides work on devices that were measured: `tuning.json`, written by an offline tuner.

`benchmarks/kernels/tune_mla_decode.py` writes the entry of the device that it runs on. Nothing is timed while serving:
a device, a version of triton or a shape without an entry gets DEFAULT.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

TABLE = Path(__file__).with_name("tuning.json")
"""{device name: {"triton x.y.z": [{"queries_up_to": n, "min_tiles": m, "most_results": r}, ...]}}, by rising n."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Bounds of how finely a batch is cut. A part is a program's share of the key tiles of 64 tokens.

    min_tiles: key tiles of a part at least, if there are more than most_results results to merge
    most_results: results, one for each query and part of its row, above which parts get more than one key tile: up to
        min_tiles, as many as bring the results down to this number. Shorter parts cost more in the merge than they save
    """

    min_tiles: int
    most_results: int


DEFAULT = Tuning(min_tiles=4, most_results=4096)


@functools.cache
def tuning_for(device: torch.device, queries: int) -> Tuning:
    """The table's entry for a row of `queries` = heads * q_len queries on this device, or DEFAULT."""
    if device.type != "cuda":
        return DEFAULT
    try:
        triton = f"triton {version('triton')}"
    except PackageNotFoundError:
        return DEFAULT
    return look_up(torch.cuda.get_device_name(device), triton, queries)


def look_up(device_name: str, triton: str, queries: int) -> Tuning:
    """The entry with the least `queries_up_to` that holds `queries`, or DEFAULT."""
    for entry in _table().get(device_name, {}).get(triton, []):
        if queries <= entry["queries_up_to"]:
            return Tuning(entry["min_tiles"], entry["most_results"])
    return DEFAULT


@functools.cache
def _table() -> dict[str, dict[str, list[dict[str, int]]]]:
    table: dict[str, dict[str, list[dict[str, int]]]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table
