"""The Gluon kernel of MLA decode on a machine without a GPU: what it compiles to, and how work is cut into parts.

Gluon has no interpreter: results are checked on Hopper by `tokenspeed kernels --check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0")
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from tokenspeed.kernels.mla.gluon_hopper import (
    CONSUMER_WARPS,
    ENTRY_REGISTERS,
    MIN_TILES,
    QUERIES,
    attend_part,
    choose_parts,
)

pytestmark = pytest.mark.serve

HOPPER_SHARED_MEMORY = 232_448


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_attend_part_compiles_to_good_code(
    dtype: str, check_resources: Callable[[Any, int], None], fresh_cache: Path
) -> None:
    def descriptor(columns: int) -> str:
        layout = gl.NVMMASharedLayout.get_default_for([64, columns], gl.bfloat16)
        return f"tensordesc<{dtype}[64, {columns}],{layout!r}>"

    types = {
        "latent_desc": descriptor(512),
        "rope_desc": descriptor(64),
        "q_ptr": f"*{dtype}",
        "table_ptr": "*i32",
        "context_ptr": "*i32",
        "out_ptr": f"*{dtype}",
        "lse_ptr": "*fp32",
        "part_out_ptr": "*fp32",
        "part_lse_ptr": "*fp32",
        "scale_log2": "fp32",
        "table_stride": "i32",
        "heads": "i32",
        "q_len": "i32",
        "rows": "i32",
        "MIN_TILES": "constexpr",
    }
    names = attend_part.arg_names
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name.endswith("_ptr")}
    source = GluonASTSource(attend_part, types, constexprs={"MIN_TILES": MIN_TILES}, attrs=aligned)
    options = {"num_warps": CONSUMER_WARPS, "maxnreg": ENTRY_REGISTERS}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    check_resources(compiled, HOPPER_SHARED_MEMORY)
    ptx = compiled.asm["ptx"]
    assert ".target sm_90a" in ptx
    products = set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(m\d+n\d+k\d+)", ptx))
    assert products == {"m64n32k16", "m64n256k16"}  # each warpgroup: half of the keys, half of the output columns
    assert "mma.sync.aligned" not in ptx.replace("wgmma.mma_async.sync.aligned", "")
    assert "cp.async.bulk.tensor" in ptx
    assert "mbarrier.try_wait" in ptx
    assert "setmaxnreg.dec" in ptx and "setmaxnreg.inc" in ptx


@given(
    rows=st.integers(1, 512), queries=st.integers(1, 1024), max_tiles=st.integers(0, 20_000), device=st.integers(1, 160)
)
def test_parts_fill_the_device_once_and_stay_long_enough(rows: int, queries: int, max_tiles: int, device: int) -> None:
    parts = choose_parts(rows, queries, max_tiles, device)
    assert parts == 1 or parts * -(-queries // QUERIES) <= device
    assert parts == 1 or (parts - 1) * MIN_TILES < rows * max_tiles
