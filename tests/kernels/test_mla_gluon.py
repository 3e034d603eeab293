"""The Gluon kernels of MLA on a machine without a GPU: what they compile to.

Gluon has no interpreter: results are checked on Hopper by `tokenspeed kernels --check`. Blackwell's have never been
checked on a device.
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

from tokenspeed.kernels.mla import gluon_blackwell
from tokenspeed.kernels.mla.gluon_hopper import ENTRY_REGISTERS, WARPS, attend_part
from tokenspeed.kernels.mla.gluon_hopper_fp8 import STAGES, attend_part_fp8
from tokenspeed.kernels.mla_prefill import gluon_hopper as prefill

pytestmark = pytest.mark.serve

HOPPER_SHARED_MEMORY = BLACKWELL_SHARED_MEMORY = 232_448
TENSOR_MEMORY_COLUMNS = 512

CheckResources = Callable[..., None]

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


def compile_for(arch: int, kernel: Any, types: dict[str, str], constexprs: dict[str, Any], **options: int) -> Any:
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name.endswith("_ptr")}
    source = GluonASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def compile_for_hopper(kernel: Any, types: dict[str, str], constexprs: dict[str, Any]) -> Any:
    return compile_for(90, kernel, types, constexprs, num_warps=WARPS, maxnreg=ENTRY_REGISTERS)


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


@pytest.mark.parametrize("rows", sorted(STAGES))
def test_decode_over_an_8_bit_cache_compiles_to_good_code(
    rows: int, check_resources: CheckResources, fresh_cache: Path
) -> None:
    """Products as wide as the queries, and an operand that gets from shared memory to the tensor cores in registers."""
    types = DECODE_TYPES | {"q_ptr": "*bf16", "out_ptr": "*bf16"}
    types |= {"latent_desc": descriptor("fp8e4nv", 64, 128), "rope_desc": descriptor("fp8e4nv", 64, 64)}
    compiled = compile_for_hopper(attend_part_fp8, types, {"ROWS": rows, "STAGES": STAGES[rows]})
    ptx = compiled.asm["ptx"]
    # 240 registers do not hold everything for 64 queries; what is spilled is outside the products.
    check_resources(compiled, HOPPER_SHARED_MEMORY, spilled=304 if rows == 64 else 0)
    assert_specialised(ptx)
    assert products(ptx) == {f"m64n{rows}k16"}
    # Each of two warpgroups: 36 steps of 16 dimensions for its own tile's scores; for the output, in each of two tiles,
    # 4 steps of 16 tokens for 4 times 64 dimensions. The left operand of all is in registers.
    left = re.findall(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.f16\.f16 \{[^}]*\}, (.)", ptx)
    assert left == ["{"] * (2 * (36 + 2 * 4 * 4))
    # Four registers of two values for each, none converted twice, from loads of 16 bytes for keys and 8 for values.
    assert ptx.count("cvt.rn.f16x2.e4m3x2") == 4 * len(left)
    assert ptx.count("prmt.b32") >= 2 * 2 * 4 * 8


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


def instruction(dtype: str, rows: int, columns: int, transposed: bool) -> int:
    """The descriptor of a tcgen05.mma of kind f16 with float32 accumulators; `transposed`: rows of B adjoin, not
    columns (PTX ISA 8.8, "Instruction descriptor")."""
    element = {"fp16": 0, "bf16": 1}[dtype]
    return 1 << 4 | element << 7 | element << 10 | transposed << 16 | columns // 8 << 17 | rows // 16 << 24


@pytest.mark.parametrize(("arch", "dtype"), [(100, "bf16"), (100, "fp16"), (103, "bf16")])
def test_decode_for_blackwell_compiles_to_good_code(
    arch: int, dtype: str, check_resources: CheckResources, fresh_cache: Path
) -> None:
    half, tile = descriptor(dtype, 64, 256), descriptor(dtype, 64, 64)
    types = DECODE_TYPES | {"latent_desc": half, "rope_desc": tile, "q_latent_desc": half, "q_rope_desc": tile}
    types |= {"out_ptr": f"*{dtype}"}
    compiled = compile_for(arch, gluon_blackwell.attend_part, types, {}, num_warps=gluon_blackwell.WARPS)
    check_resources(compiled, BLACKWELL_SHARED_MEMORY)
    assert compiled.metadata.tmem_size <= TENSOR_MEMORY_COLUMNS
    ptx = compiled.asm["ptx"]
    assert f".target sm_{arch}a" in ptx
    assert "wgmma" not in ptx and "mma.sync" not in ptx
    assert "cp.async.bulk.tensor.2d" in ptx and "mbarrier.try_wait" in ptx
    # Scores: 36 steps of 16 values with keys as they lie. Output: 4 steps of 16 tokens for each half, keys as values.
    products = re.findall(r"tcgen05\.mma\.cta_group::1\.kind::f16 \[ %\w+ \+ 0 \], %\w+, %\w+, (%\w+),", ptx)
    kinds = [int(value) for value in (re.findall(rf"mov\.b32 \t{register}, (\d+);", ptx)[-1] for register in products)]
    assert kinds == [instruction(dtype, 64, 64, False)] * 36 + [instruction(dtype, 64, 256, True)] * 8
    # A tile's scores and output each tell of their end, and free the queries and the buffer.
    assert ptx.count("tcgen05.commit") == 4
    assert "tcgen05.fence::before_thread_sync" in ptx and "tcgen05.fence::after_thread_sync" in ptx
    assert len(re.findall(r"tcgen05\.alloc\.", ptx)) == len(re.findall(r"tcgen05\.dealloc\.", ptx)) == 1
    assert "griddepcontrol.wait" in ptx and "griddepcontrol.launch_dependents" in ptx
