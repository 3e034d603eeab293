"""The Triton kernels of MLA decode on a machine without a GPU: interpreted, and compiled for several architectures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.kernels import Capability, explain

pytest.importorskip("triton", reason="triton is not installed: pip install --no-deps triton==3.6.0")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenspeed.kernels.mla.merge import merge_parts, merge_shape, merge_splits
from tokenspeed.kernels.mla.plan_kernel import fill_plan
from tokenspeed.kernels.mla.triton_split_kv import (
    EIGHT_BIT,
    EIGHT_BIT_PLANNED,
    NARROW,
    NARROW_ALONE,
    SMALL_EIGHT_BIT,
    WIDE,
    Tile,
    attend_piece,
    attend_split,
    choose_splits,
    choose_tile,
)

pytestmark = pytest.mark.serve

CheckResources = Callable[..., None]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_agrees_with_the_definition_under_the_interpreter() -> None:
    """Runs `interpreted_mla_decode.py`; its failures are shown as this test's."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",  # the tiles are small: threads would only wait for each other
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    environment.pop("PYTEST_ADDOPTS", None)
    cases = Path(__file__).with_name("interpreted_mla_decode.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


CONSTEXPRS = {"LATENT": 512, "ROPE": 64, "BLOCK_SIZE": 64, "PARTS": 256}
# Kernel argument types as a launch with bfloat16 tensors has them; pointers and cache strides are multiples of 16.
ATTEND_TYPES = {
    "q_ptr": "*bf16",
    "kv_ptr": "*bf16",
    "table_ptr": "*i32",
    "context_ptr": "*i32",
    "out_ptr": "*fp32",
    "lse_ptr": "*fp32",
    "parts_ptr": "*i32",
    "part_out_ptr": "*fp32",
    "part_lse_ptr": "*fp32",
    "scale_log2": "fp32",
    "cache_scale": "fp32",
    "block_stride": "i32",
    "token_stride": "i32",
    "table_stride": "i32",
    "heads": "i32",
    "rows": "i32",
    "parts": "i32",
    "q_len": "i32",
    "splits": "i32",
}
MERGE_TYPES = {
    "slot_out_ptr": "*fp32",
    "slot_lse_ptr": "*fp32",
    "context_ptr": "*i32",
    "parts_ptr": "*i32",
    "cuts_ptr": "*i32",
    "out_ptr": "*bf16",
    "lse_ptr": "*fp32",
    "queries": "i32",
    "splits": "i32",
    "rows": "i32",
    "parts": "i32",
    "min_tiles": "i32",
    "most_results": "i32",
}


def compile_for(arch: int, kernel: Any, types: dict[str, str], constexprs: dict[str, int], warps: int) -> Any:
    """Compile for a compute capability that this machine need not have."""
    constexprs = {name: value for name, value in constexprs.items() if name in kernel.arg_names}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") or name in ("block_stride", "token_stride")
    }
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})


# By shapes: a split's part, and the final result if there is one split. By a plan: both in one kernel.
@pytest.mark.parametrize(
    ("kernel", "result"),
    [(attend_split, "*fp32"), (attend_split, "*bf16"), (attend_piece, "*bf16")],
    ids=["split", "whole", "piece"],
)
@pytest.mark.parametrize(
    ("arch", "queries", "cache_bits", "shared_limit", "instruction"),
    [
        pytest.param(80, 16, 16, 166_912, "mma.sync", id="sm_80-narrow"),
        pytest.param(89, 16, 16, 101_376, "mma.sync", id="sm_89-narrow"),
        pytest.param(90, 32, 16, 232_448 // 2, "mma.sync", id="sm_90-narrow"),  # two programs on a multiprocessor
        pytest.param(90, 16, 16, 232_448, "mma.sync", id="sm_90-narrow-alone"),
        pytest.param(90, 64, 16, 232_448, "wgmma.mma_async", id="sm_90-wide"),
        pytest.param(100, 32, 16, 232_448 // 2, "mma.sync", id="sm_100-narrow"),
        pytest.param(89, 16, 8, 101_376, "mma.sync", id="sm_89-eight-bit"),
        pytest.param(90, 16, 8, 232_448, "mma.sync", id="sm_90-eight-bit"),
    ],
)
def test_attention_compiles_to_good_code(
    arch: int,
    queries: int,
    cache_bits: int,
    shared_limit: int,
    instruction: str,
    kernel: Any,
    result: str,
    check_resources: CheckResources,
    fresh_cache: Path,
) -> None:
    tile = choose_tile(queries, arch, cache_bits, planned=kernel is attend_piece)
    sizes = {"QUERIES": tile.queries, "KEYS": tile.keys, "STAGES": tile.stages}
    types = ATTEND_TYPES | {"out_ptr": result}
    constexprs: dict[str, Any] = CONSTEXPRS | sizes | {"TMA": tile.tma}
    if tile.tma:
        types |= {
            "latent_desc": f"tensordesc<bf16[{tile.keys}, 512]>",
            "rope_desc": f"tensordesc<bf16[{tile.keys}, 64]>",
        }
    else:
        constexprs |= {"latent_desc": None, "rope_desc": None}
    if cache_bits == 8:
        types["kv_ptr"] = "*fp8e4nv"
    compiled = compile_for(arch, kernel, types, constexprs, tile.warps)
    # With a plan the wide tile spills three scalars before its loop, which say where the result goes.
    check_resources(compiled, shared_limit, 16 if kernel is attend_piece and tile is WIDE else 0)
    ptx = compiled.asm["ptx"]
    assert instruction in ptx
    assert ("wgmma" in ptx) == (tile is WIDE)
    assert ("cp.async.bulk.tensor" in ptx) == tile.tma
    assert "cp.async" in ptx  # keys of the next tile are loaded during the arithmetic of this one


@pytest.mark.parametrize("kernel", [merge_splits, merge_parts], ids=["splits", "parts"])
@pytest.mark.parametrize("slots", [1, 16, 132])
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_merging_compiles_to_good_code(
    arch: int, slots: int, kernel: Any, check_resources: CheckResources, fresh_cache: Path
) -> None:
    shape, warps = merge_shape(slots)
    sizes = shape | {"AFTER_LAUNCH": arch >= 90}
    compiled = compile_for(arch, kernel, MERGE_TYPES, sizes, warps)
    check_resources(compiled, 49_152)
    assert ("griddepcontrol.wait" in compiled.asm["ptx"]) == (kernel is merge_parts and arch >= 90)


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_planning_compiles_to_good_code(arch: int, check_resources: CheckResources, fresh_cache: Path) -> None:
    sizes = {"GAP": 2, "EXTRA": 16, "PARTS": 256, "CHUNK": 16}
    check_resources(compile_for(arch, fill_plan, MERGE_TYPES, sizes, warps=8), 49_152)


def choice(
    device: Capability, dtype: torch.dtype, *, heads: int = 16, block_size: int = 64, dense: int = 1, bits: int = 16
) -> str:
    traits = {"heads": heads, "q_len": 1, "block_size": block_size, "dense_cache": dense, "cache_bits": bits}
    return explain("mla_decode", device=device, dtype=dtype, kernel=None, **traits).kernel.name


def test_selected_on_gpus_from_ampere_on() -> None:
    assert choice(Capability("cuda", 100), torch.bfloat16) == "triton_split_kv"
    assert choice(Capability("cuda", 80), torch.float16) == "triton_split_kv"
    assert choice(Capability("cuda", 90), torch.float32) == "reference"
    assert choice(Capability("cuda", 75), torch.float16) == "reference"
    assert choice(Capability("rocm"), torch.bfloat16) == "reference"
    assert choice(Capability("cpu"), torch.bfloat16) == "reference"


def test_hopper_has_kernels_of_its_own() -> None:
    hopper = Capability("cuda", 90)
    assert choice(hopper, torch.bfloat16, heads=128) == "gluon_hopper"
    assert choice(hopper, torch.bfloat16, heads=16) == "gluon_hopper"
    assert choice(hopper, torch.bfloat16, heads=16, bits=8) == "gluon_hopper_fp8"
    assert choice(hopper, torch.bfloat16, heads=16, bits=8, dense=0) == "triton_split_kv_fp8"
    assert choice(Capability("cuda", 80), torch.bfloat16, bits=8) == "reference"  # no e4m3 in hardware
    assert choice(hopper, torch.float16, heads=32) == "gluon_hopper"
    assert choice(hopper, torch.float32, heads=128) == "reference"
    assert choice(hopper, torch.bfloat16, heads=128, block_size=32) == "triton_split_kv"
    assert choice(hopper, torch.bfloat16, heads=128, dense=0) == "triton_split_kv"
    for arch in (80, 89, 100, 120):
        assert choice(Capability("cuda", arch), torch.bfloat16, heads=128) == "triton_split_kv"


def test_wide_tiles_are_for_many_queries_on_hopper() -> None:
    assert choose_tile(64, 90) is WIDE
    assert choose_tile(32, 90) is NARROW
    assert choose_tile(128, 80) is NARROW
    assert choose_tile(128, 100) is NARROW
    assert choose_tile(64, 90, planned=True) is WIDE
    assert choose_tile(16, 90, planned=True) is NARROW_ALONE
    assert choose_tile(17, 90, planned=True) is NARROW
    assert choose_tile(16, 89, planned=True) is NARROW
    assert choose_tile(128, 90, cache_bits=8) is EIGHT_BIT
    assert choose_tile(128, 89, cache_bits=8) is SMALL_EIGHT_BIT
    assert choose_tile(128, 90, cache_bits=8, planned=True) is EIGHT_BIT_PLANNED
    assert choose_tile(128, 89, cache_bits=8, planned=True) is SMALL_EIGHT_BIT


@given(
    rows=st.integers(1, 512),
    queries=st.integers(1, 512),
    max_context=st.integers(0, 1_000_000),
    tile=st.sampled_from([NARROW, WIDE]),
    multiprocessors=st.integers(1, 160),
)
def test_splits_fill_the_device_once_and_stay_long_enough(
    rows: int, queries: int, max_context: int, tile: Tile, multiprocessors: int
) -> None:
    splits = choose_splits(rows, queries, max_context, tile, multiprocessors)
    programs = rows * -(-queries // tile.queries) * splits
    assert splits == 1 or programs <= multiprocessors * tile.programs_per_multiprocessor
    assert splits == 1 or (splits - 1) * 2 * tile.keys < max_context
