"""Tune the tiles of grouped products on this machine, and print the tuning table with its entries.

    python benchmarks/kernels/tune_grouped_gemm.py > tuning.json    # then move it over kernels/moe/tuning.json

For each mean number of rows in a group, plain and gated, every candidate is timed on shapes of Qwen3 30B-A3B and, on
eight devices, of DeepSeek-V3, in turns; the one with the least geometric mean wins. Groups are as uneven as tokens that
choose at random make them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict

import measuring
import torch
from measuring import progress
from torch import Tensor

from tokenspeed.kernels.moe.tile import TABLE, Tile, default_tile
from tokenspeed.kernels.moe.triton_grouped import multiply_groups
from tokenspeed.kernels.tuning import Entry, with_entries

PER_GROUP = (4, 16, 32, 64, 128, 256, 1024)
"""Mean rows of a group."""
SHAPES = {False: ((128, 1536, 2048), (128, 2048, 768), (32, 7168, 2048)), True: ((128, 768, 2048), (32, 2048, 7168))}
"""Groups, columns and inner dimension, without and with a gate."""
# Those of rows by columns by inner that neither spill registers nor exceed the shared memory of an H100.
CANDIDATES = {
    False: (
        *(Tile(16, *shape) for shape in ((64, 128, 4, 4), (128, 64, 4, 4), (128, 64, 4, 5), (128, 128, 4, 3))),
        *(Tile(32, *shape) for shape in ((128, 64, 4, 4), (128, 128, 4, 3))),
        *(Tile(64, *shape) for shape in ((128, 64, 4, 3), (128, 64, 4, 4), (256, 64, 8, 3), (256, 64, 4, 3))),
        *(Tile(128, *shape) for shape in ((128, 64, 8, 3), (128, 64, 8, 4), (256, 64, 8, 3), (256, 64, 8, 4))),
    ),
    True: (
        *(Tile(16, *shape) for shape in ((64, 64, 4, 3), (64, 64, 4, 4), (64, 128, 4, 3), (32, 128, 4, 4))),
        *(Tile(32, *shape) for shape in ((64, 64, 4, 4), (64, 128, 4, 3))),
        *(Tile(64, *shape) for shape in ((64, 64, 4, 3), (64, 64, 4, 4), (128, 64, 8, 3), (128, 64, 8, 4))),
        *(Tile(128, *shape) for shape in ((64, 64, 8, 3), (64, 64, 8, 4), (128, 64, 8, 3), (128, 64, 8, 4))),
    ),
}


def product(x: Tensor, weight: Tensor, offsets: Tensor, rows: int, gated: bool, tile: Tile) -> Tensor:
    """One product, as `grouped_gemm` or as the first of `moe_mlp`."""
    source = torch.arange(rows, dtype=torch.int32, device=x.device) if gated else None
    return multiply_groups(x, weight, offsets, rows=rows, source=source, gated=gated, tile=tile)


def candidates(gated: bool, per_group: int) -> list[Tile]:
    """Tiles that are at most twice as high as a group, the default among them."""
    fit = [tile for tile in CANDIDATES[gated] if tile.rows <= max(16, 2 * per_group)]
    return list(dict.fromkeys((default_tile(per_group, gated, 2), *fit)))


def time_candidates(
    gated: bool, per_group: int, shape: tuple[int, int, int], device: torch.device
) -> dict[Tile, float]:
    """Microseconds of each candidate."""
    groups, columns, inner = shape
    rows = groups * per_group
    sizes = torch.randint(groups, (rows,)).bincount(minlength=groups)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]).int().to(device)
    x = torch.randn(rows, inner, device=device).bfloat16()
    weight = torch.randn(groups, columns * (2 if gated else 1), inner, device=device).bfloat16()
    run = functools.partial(product, x, weight, offsets, rows, gated)
    calls = {str(tile): [functools.partial(run, tile)] * 2 for tile in candidates(gated, per_group)}
    times = measuring.time_in_turns(calls, rounds=5)
    return {tile: times[str(tile)]["us"] for tile in candidates(gated, per_group)}


def best_tile(gated: bool, per_group: int, device: torch.device) -> Tile:
    """The fastest over all shapes."""
    logs = dict.fromkeys(candidates(gated, per_group), 0.0)
    for shape in SHAPES[gated]:
        for tile, us in time_candidates(gated, per_group, shape, device).items():
            logs[tile] += math.log(us) / len(SHAPES[gated])
        torch.cuda.empty_cache()
    order = sorted(logs, key=lambda tile: logs[tile])
    gain = math.exp(logs[default_tile(per_group, gated, 2)] - logs[order[0]])
    shown = ", ".join(f"{tile} {math.exp(logs[tile]):.1f} us" for tile in order[:3])
    progress(f"{'gated' if gated else 'plain'}, {per_group} rows a group: {shown}; {gain:.2f}x the default")
    return order[0]


def main() -> None:
    """Tune all."""
    device = measuring.cuda_device()
    torch.manual_seed(0)
    entries: list[Entry] = []
    for gated in (False, True):
        for per_group in PER_GROUP:
            tile = best_tile(gated, per_group, device)
            entries.append({"gated": int(gated), "rows_up_to": per_group, **asdict(tile)})
    print(with_entries(TABLE, device, entries))


if __name__ == "__main__":
    main()
