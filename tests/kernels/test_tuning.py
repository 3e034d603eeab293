"""The tables of what was found fastest, and what is taken from them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenspeed.kernels import tuning
from tokenspeed.kernels.mla import Tuning
from tokenspeed.kernels.mla import tuning as mla
from tokenspeed.kernels.moe import tile as moe
from tokenspeed.kernels.moe.tile import Tile

pytestmark = pytest.mark.serve


def test_mla_decode_takes_the_least_entry_that_holds_its_queries() -> None:
    assert tuning.read(mla.TABLE)
    for device, versions in tuning.read(mla.TABLE).items():
        for triton in versions:
            entries = tuning.look_up(mla.TABLE, device, triton)
            bounds = [entry["queries_up_to"] for entry in entries]
            assert bounds == sorted(set(bounds))
            for entry in entries:
                found = mla.choose(entries, entry["queries_up_to"])
                assert found == Tuning(entry["min_tiles"], entry["most_results"])
                assert found.min_tiles >= 1 and found.most_results >= 1
            assert mla.choose(entries, bounds[-1] + 1) == mla.DEFAULT
    assert mla.choose(tuning.look_up(mla.TABLE, "no such device", "triton 3.6.0"), 16) == mla.DEFAULT


def test_grouped_products_take_the_least_entry_that_holds_their_groups() -> None:
    assert tuning.read(moe.TABLE)
    for device, versions in tuning.read(moe.TABLE).items():
        for triton in versions:
            entries = tuning.look_up(moe.TABLE, device, triton)
            for gated, group in groupby(entries, key=lambda entry: entry["gated"]):
                own = list(group)
                bounds = [entry["rows_up_to"] for entry in own]
                assert bounds == sorted(set(bounds))
                for entry in own:
                    found = moe.choose(entries, entry["rows_up_to"], bool(gated))
                    assert found == Tile(*(entry[name] for name in ("rows", "columns", "inner", "warps", "stages")))
                assert moe.choose(entries, bounds[-1] + 1, bool(gated)) == moe.choose(entries, bounds[-1], bool(gated))
    assert moe.choose([], 16, False) is None


def test_a_device_without_an_entry_gets_the_default() -> None:
    cpu = torch.device("cpu")
    assert tuning.entries_for(moe.TABLE, cpu) == []
    assert moe.tile_for(1000, 10, True, 2, cpu) == moe.default_tile(100, True, 2)
    assert mla.tuning_for(cpu, 16) == mla.DEFAULT


def tuned_tiles() -> list[tuple[bool, Tile]]:
    """Those of the H100."""
    entries = tuning.look_up(moe.TABLE, "NVIDIA H100 80GB HBM3", "triton 3.6.0")
    return sorted({(bool(e["gated"]), moe.choose([e], 0, bool(e["gated"]))) for e in entries}, key=str)  # type: ignore[misc]


@pytest.mark.parametrize(("gated", "tile"), tuned_tiles(), ids=str)
def test_tuned_tiles_compile_to_good_code(
    gated: bool,
    tile: Tile,
    compile_kernel: Callable[..., Any],
    check_resources: Callable[[Any, int], None],
    fresh_cache: Path,
) -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install --no-deps triton==3.6.0")
    from tokenspeed.kernels.moe.triton_grouped import multiply_tile

    sizes = {
        "GATHERED": gated,
        "GATED": gated,
        "SCALED": not gated,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "INNER": tile.inner,
        "STAGES": tile.stages,
        "PRECISION": "tf32",
    }
    types = {"row_ptr": "*i32", "offset_ptr": "*i32", "factor_ptr": "*fp32"}
    strides = ("columns", "inner", "x_stride", "group_stride", "column_stride")
    check_resources(compile_kernel(90, multiply_tile, "bf16", sizes, tile.warps, types, strides), 232_448)
