"""The Gluon kernels of MLA on a machine without a GPU: what they compile to.

Gluon has no interpreter: results are checked on Hopper by `tokenspeed kernels --check`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0")
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from tokenspeed.kernels.mla.gluon_hopper import ENTRY_REGISTERS, WARPS, attend_part
from tokenspeed.kernels.mla.gluon_hopper_fp8 import attend_part_fp8
from tokenspeed.kernels.mla_prefill import gluon_hopper as prefill

pytestmark = pytest.mark.serve

HOPPER_SHARED_MEMORY = 232_448

CheckResources = Callable[[Any, int], None]

DECODE_TYPES = {
    "table_ptr": "*i32",
    "context_ptr": "*i32",
    "parts_ptr": "*i32",
    "lse_ptr": "*fp32",
    "part_out_ptr": "*fp32",
    "part_lse_ptr": "*fp32",
    "scale_log2": "fp32",
    "cache_scale": "fp32",
    "table_stride": "i32",
    "heads": "i32",
    "q_len": "i32",
}


def descriptor(dtype: str, rows: int, columns: int) -> str:
    element = gl.float8e4nv if dtype == "fp8e4nv" else gl.bfloat16
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], element)
    return f"tensordesc<{dtype}[{rows}, {columns}],{layout!r}>"


def compile_for_hopper(kernel: Any, types: dict[str, str], constexprs: dict[str, Any]) -> Any:
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name.endswith("_ptr")}
    source = GluonASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    options = {"num_warps": WARPS, "maxnreg": ENTRY_REGISTERS}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def products(ptx: str) -> set[str]:
    """The shapes of wgmma; nothing else may multiply matrices."""
    assert "mma.sync.aligned" not in ptx.replace("wgmma.mma_async.sync.aligned", "")
    return set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(m\d+n\d+k\d+)", ptx))


def assert_specialised(ptx: str) -> None:
    """Hopper's own code: TMA, barriers in shared memory, registers moved between warps."""
    assert ".target sm_90a" in ptx
    assert "cp.async.bulk.tensor" in ptx
    assert "mbarrier.try_wait" in ptx
    assert "setmaxnreg.dec" in ptx and "setmaxnreg.inc" in ptx


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_decode_compiles_to_good_code(dtype: str, check_resources: CheckResources, fresh_cache: Path) -> None:
    half, tile = descriptor(dtype, 64, 256), descriptor(dtype, 64, 64)
    types = DECODE_TYPES | {"latent_desc": half, "rope_desc": tile, "q_desc": half}
    types |= {"q_ptr": f"*{dtype}", "out_ptr": f"*{dtype}"}
    compiled = compile_for_hopper(attend_part, types, {})
    check_resources(compiled, HOPPER_SHARED_MEMORY)
    ptx = compiled.asm["ptx"]
    assert_specialised(ptx)
    # A warpgroup's scores: all 64 keys of its own tile; its output: half of the columns.
    assert products(ptx) == {"m64n64k16", "m64n256k16"}
    assert "griddepcontrol.wait" in ptx and "griddepcontrol.launch_dependents" in ptx


def test_decode_over_an_8_bit_cache_compiles_to_good_code(fresh_cache: Path) -> None:
    """Not held to no spills: 216 registers do not hold everything, and what is spilled is outside the products."""
    types = DECODE_TYPES | {"kv_desc": descriptor("fp8e4nv", 64, 64), "q_desc": descriptor("fp16", 64, 256)}
    types |= {"q_ptr": "*fp16", "kv_ptr": "*fp8e4nv", "out_ptr": "*bf16"}
    compiled = compile_for_hopper(attend_part_fp8, types, {})
    assert compiled.metadata.shared <= HOPPER_SHARED_MEMORY
    ptx = compiled.asm["ptx"]
    assert "trap;" not in ptx
    assert_specialised(ptx)
    assert products(ptx) == {"m64n64k16", "m64n256k16"}
    assert "cvt.rn.f16x2.e4m3x2" in ptx  # two values in an instruction
    assert "cp.async.bulk.prefetch.L2" in ptx


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_prefill_compiles_to_good_code(
    dtype: str, causal: bool, check_resources: CheckResources, fresh_cache: Path
) -> None:
    types = {
        "q_nope_desc": descriptor(dtype, 64, 128),
        "q_rope_desc": descriptor(dtype, 64, 64),
        "k_nope_desc": descriptor(dtype, 128, 128),
        "k_rope_desc": descriptor(dtype, 128, 64),
        "v_desc": descriptor(dtype, 128, 128),
        "q_starts_ptr": "*i32",
        "kv_starts_ptr": "*i32",
        "out_ptr": f"*{dtype}",
        "lse_ptr": "*fp32",
        "scale_log2": "fp32",
        "heads": "i32",
    }
    compiled = compile_for_hopper(prefill.attend_tile, types, {"CAUSAL": causal})
    check_resources(compiled, HOPPER_SHARED_MEMORY)
    ptx = compiled.asm["ptx"]
    assert_specialised(ptx)
    assert products(ptx) == {"m64n128k16"}
