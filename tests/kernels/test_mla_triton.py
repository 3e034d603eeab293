"""The Triton kernels of MLA decode on a machine without a GPU: interpreted, and compiled for several architectures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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

from tokenspeed.kernels.mla.triton_split_kv import (
    NARROW,
    WIDE,
    Tile,
    attend_split,
    choose_splits,
    choose_tile,
    merge_splits,
)

pytestmark = pytest.mark.serve


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


CONSTEXPRS = {"LATENT": 512, "ROPE": 64, "BLOCK_SIZE": 64}
# Kernel argument types as a launch with bfloat16 tensors has them; pointers and cache strides are multiples of 16.
ATTEND_TYPES = {
    "q_ptr": "*bf16",
    "kv_ptr": "*bf16",
    "table_ptr": "*i32",
    "context_ptr": "*i32",
    "out_ptr": "*fp32",
    "lse_ptr": "*fp32",
    "scale_log2": "fp32",
    "block_stride": "i32",
    "token_stride": "i32",
    "table_stride": "i32",
    "heads": "i32",
    "q_len": "i32",
    "splits": "i32",
}
MERGE_TYPES = {
    "part_out_ptr": "*fp32",
    "part_lse_ptr": "*fp32",
    "out_ptr": "*bf16",
    "lse_ptr": "*fp32",
    "queries": "i32",
    "splits": "i32",
}


def compile_for(arch: int, kernel: Any, types: dict[str, str], constexprs: dict[str, int], warps: int) -> Any:
    """Compile for a compute capability that this machine need not have."""
    signature = types | dict.fromkeys(constexprs, "constexpr")
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") or name in ("block_stride", "token_stride")
    }
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})


def check_resources(compiled: Any, shared_limit: int, folder: Path) -> None:
    """No trap instead of code, shared memory within the device's limit for a block, no register spilled to memory."""
    assert "trap;" not in compiled.asm["ptx"]
    assert compiled.metadata.shared <= shared_limit
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    dump = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
    usage = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    assert (stack, local) == (0, 0), usage
    assert registers <= 255
    assert not re.search(r"\b(ld|st)\.local", compiled.asm["ptx"])


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile anew, outside the user's cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return tmp_path


@pytest.mark.parametrize("result", ["*fp32", "*bf16"])  # a split's part, and the final result if there is one split
@pytest.mark.parametrize(
    ("arch", "tile", "shared_limit", "instruction"),
    [
        pytest.param(80, NARROW, 166_912, "mma.sync", id="sm_80-narrow"),
        pytest.param(89, NARROW, 101_376, "mma.sync", id="sm_89-narrow"),
        pytest.param(90, NARROW, 232_448 // 2, "mma.sync", id="sm_90-narrow"),  # two programs on a multiprocessor
        pytest.param(90, WIDE, 232_448, "wgmma.mma_async", id="sm_90-wide"),
        pytest.param(100, NARROW, 232_448 // 2, "mma.sync", id="sm_100-narrow"),
    ],
)
def test_attend_split_compiles_to_good_code(
    arch: int, tile: Tile, shared_limit: int, instruction: str, result: str, fresh_cache: Path
) -> None:
    sizes = {"QUERIES": tile.queries, "KEYS": tile.keys, "STAGES": tile.stages}
    types = ATTEND_TYPES | {"out_ptr": result}
    compiled = compile_for(arch, attend_split, types, CONSTEXPRS | sizes, tile.warps)
    check_resources(compiled, shared_limit, fresh_cache)
    ptx = compiled.asm["ptx"]
    assert instruction in ptx
    assert ("wgmma" in ptx) == (tile is WIDE)
    assert "cp.async" in ptx  # keys of the next tile are loaded during the arithmetic of this one


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_merge_splits_compiles_to_good_code(arch: int, fresh_cache: Path) -> None:
    compiled = compile_for(arch, merge_splits, MERGE_TYPES, {"LATENT": 512}, warps=4)
    check_resources(compiled, 49_152, fresh_cache)


def test_selected_on_gpus_from_ampere_on() -> None:
    def choice(device: Capability, dtype: torch.dtype) -> str:
        return explain("mla_decode", device=device, dtype=dtype, heads=16, q_len=1, block_size=64).kernel.name

    assert choice(Capability("cuda", 90), torch.bfloat16) == "triton_split_kv"
    assert choice(Capability("cuda", 80), torch.float16) == "triton_split_kv"
    assert choice(Capability("cuda", 90), torch.float32) == "reference"
    assert choice(Capability("cuda", 75), torch.float16) == "reference"
    assert choice(Capability("rocm"), torch.bfloat16) == "reference"
    assert choice(Capability("cpu"), torch.bfloat16) == "reference"


def test_wide_tiles_are_for_many_queries_on_hopper() -> None:
    assert choose_tile(64, 90) is WIDE
    assert choose_tile(32, 90) is NARROW
    assert choose_tile(128, 80) is NARROW
    assert choose_tile(128, 100) is NARROW


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
