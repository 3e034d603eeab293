"""Which tile a grouped product takes: by shapes alone, on devices that were measured from a table.

`benchmarks/kernels/tune_grouped_gemm.py` writes the table, for values of 16 bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from ..tuning import Entry, entries_for

TABLE = Path(__file__).with_name("tuning.json")
"""Entries {"gated": 0 or 1, "rows_up_to": n, and the fields of `Tile`}, by rising n; n is the mean rows of a group."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Shape and launch of one program: `rows` by `columns` of the result, `inner` terms of the sums at a time."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


def tile_for(rows: int, groups: int, gated: bool, itemsize: int, device: torch.device) -> Tile:
    """The tile for this many rows in all: as high as a group would be if all were alike."""
    return _tile_for(-(-rows // groups), gated, itemsize, device)


@functools.cache
def _tile_for(per_group: int, gated: bool, itemsize: int, device: torch.device) -> Tile:
    found = choose(entries_for(TABLE, device), per_group, gated) if itemsize == 2 else None
    return found or default_tile(per_group, gated, itemsize)


def choose(entries: list[Entry], per_group: int, gated: bool) -> Tile | None:
    """The entry with the least `rows_up_to` that holds the rows of a group, the last if none does; None if there is
    none for this product."""
    own = [entry for entry in entries if entry["gated"] == gated]
    for entry in own:
        if per_group <= entry["rows_up_to"] or entry is own[-1]:
            return Tile(entry["rows"], entry["columns"], entry["inner"], entry["warps"], entry["stages"])
    return None


def default_tile(per_group: int, gated: bool, itemsize: int) -> Tile:
    """A tile that fits 99 KiB of shared memory, which every device from sm_80 on has."""
    inner = 128 // itemsize
    columns = 64 if gated or itemsize == 4 else 128
    if per_group <= 16:
        return Tile(16, columns, inner, warps=4, stages=3)
    if itemsize == 4:  # three products in TF32 for one in float32: a higher tile would spill registers
        return Tile(32, columns, inner, warps=4, stages=3)
    if per_group <= 64:
        return Tile(64, columns, inner, warps=4, stages=3)
    return Tile(128, columns, inner, warps=8, stages=3)
