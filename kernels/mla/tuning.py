"""How `mla_decode` divides work on devices that were measured; `benchmarks/kernels/tune_mla_decode.py` writes it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from ..tuning import Entry, entries_for

TABLE = Path(__file__).with_name("tuning.json")
"""Entries {"queries_up_to": n, "min_tiles": m, "most_results": r}, by rising n."""

TILE = 64
"""Tokens of a key tile."""
ROW_GAP = 2
"""Tiles whose time a program needs to begin a row: to load its queries and to store its result."""
ALIGNED_EXTRA = 16
"""Rows are laid at equal distances if that makes parts longer by less than a part in this many."""


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
    return choose(entries_for(TABLE, device), queries)


def choose(entries: list[Entry], queries: int) -> Tuning:
    """The entry with the least `queries_up_to` that holds `queries`, or DEFAULT."""
    for entry in entries:
        if queries <= entry["queries_up_to"]:
            return Tuning(entry["min_tiles"], entry["most_results"])
    return DEFAULT
