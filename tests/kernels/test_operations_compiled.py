"""What the Triton kernels around MLA compile to for GPUs that this machine need not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install --no-deps triton==3.6.0")

from tokenspeed.kernels.activation.triton_columns import gate_columns
from tokenspeed.kernels.attention import triton_ragged
from tokenspeed.kernels.attention.triton_ragged import attend_tile, merge_splits
from tokenspeed.kernels.kv_cache.triton_scatter import scatter_token
from tokenspeed.kernels.moe.tile import default_tile
from tokenspeed.kernels.moe.triton_grouped import multiply_tile
from tokenspeed.kernels.moe.triton_mlp import sum_choices
from tokenspeed.kernels.moe.triton_route import route_token
from tokenspeed.kernels.norm.triton_rows import normalise_row
from tokenspeed.kernels.rotary.triton_pairs import turn_pairs
from tokenspeed.kernels.sampling.triton_select import BLOCK, sample_row

pytestmark = pytest.mark.serve

SMALLEST_SHARED_MEMORY = 101_376
"""Bytes for a program on sm_86 and sm_89, the least of sm_80 and newer: portable kernels stay within it everywhere."""
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}

CompileKernel = Callable[..., Any]
CheckResources = Callable[[Any, int], None]

SIMPLE: dict[str, tuple[Any, dict[str, Any], int, dict[str, str]]] = {
    "rms_norm": (
        normalise_row,
        {"HAS_RESIDUAL": True, "COLUMNS": 8192},
        16,
        {"eps": "fp32"},
    ),
    "rms_norm largest": (
        normalise_row,
        {"HAS_RESIDUAL": True, "COLUMNS": 16_384},
        16,
        {"eps": "fp32"},
    ),
    "rotary": (turn_pairs, {"HEADS": 16, "HALF": 64}, 4, {"cos_ptr": "*fp32", "sin_ptr": "*fp32"}),
    "silu_mul": (gate_columns, {"COLUMNS": 1024}, 4, {}),
    "write_kv": (scatter_token, {"VALUES": 1024}, 4, {"slot_ptr": "*i64"}),
    "moe_route": (
        route_token,
        {"SOFTMAX": False, "HAS_BIAS": True, "RENORMALIZE": True, "EXPERTS": 256, "CHOICES": 8},
        1,
        {"bias_ptr": "*fp32", "weight_ptr": "*fp32", "expert_ptr": "*i32", "scale": "fp32"},
    ),
    "moe_mlp sum": (sum_choices, {"COLUMNS": 1024}, 4, {"place_ptr": "*i32", "count_ptr": "*i32"}),
    "paged_attention merge": (
        merge_splits,
        {"HEAD_DIM": 128, "DIM": 128, "AT_ONCE": 16},
        2,
        {"part_ptr": "*fp32", "lse_ptr": "*fp32", "start_ptr": "*i32"},
    ),
    "sample_tokens": (
        sample_row,
        {"BLOCK": BLOCK},
        16,
        {
            **dict.fromkeys(("temperature_ptr", "top_p_ptr", "min_p_ptr"), "*fp32"),
            "top_k_ptr": "*i32",
            "uniform_ptr": "*fp64",
            "token_ptr": "*i64",
        },
    ),
}


@pytest.mark.parametrize("arch", [90, 100])
@pytest.mark.parametrize("name", SIMPLE)
def test_kernels_without_products_compile_to_good_code(
    name: str, arch: int, compile_kernel: CompileKernel, check_resources: CheckResources
) -> None:
    kernel, constexprs, warps, types = SIMPLE[name]
    check_resources(compile_kernel(arch, kernel, "bf16", constexprs, warps, types), 49_152)


ATTENTION_TYPES = {"table_ptr": "*i32", "context_ptr": "*i32", "start_ptr": "*i32", "lse_ptr": "*fp32"}
ATTENTION_STRIDES = ("q_token", "q_head", "k_block", "k_slot", "k_head", "v_block", "v_slot", "v_head")


@pytest.mark.parametrize(
    ("arch", "tokens", "element", "head_dim", "instruction"),
    [
        (80, 1, "bf16", 128, "mma.sync"),
        (80, 512, "fp16", 128, "mma.sync"),
        (80, 512, "fp32", 128, "mma.sync"),
        (90, 1, "bf16", 64, "mma.sync"),
        (90, 12, "bf16", 128, "wgmma.mma_async"),
        (90, 512, "bf16", 128, "wgmma.mma_async"),
        (90, 512, "bf16", 256, "wgmma.mma_async"),
        (100, 1, "bf16", 128, "mma.sync"),
        (100, 512, "bf16", 128, "tcgen05.mma"),
    ],
)
def test_attention_compiles_to_good_code(
    arch: int,
    tokens: int,
    element: str,
    head_dim: int,
    instruction: str,
    compile_kernel: CompileKernel,
    check_resources: CheckResources,
) -> None:
    tile = triton_ragged.choose_tile(tokens, 1, 4, head_dim, BYTES[element])
    sizes = {
        "HEAD_DIM": head_dim,
        "DIM": head_dim,
        "BLOCK_SIZE": 64,
        "GROUP": 4,
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "STAGES": tile.stages,
        "PRECISION": "tf32x3" if element == "fp32" else "tf32",
    }
    types = ATTENTION_TYPES | {"scale_log2": "fp32"}
    compiled = compile_kernel(arch, attend_tile, element, sizes, tile.warps, types, ATTENTION_STRIDES)
    check_resources(compiled, SMALLEST_SHARED_MEMORY)
    assert instruction in compiled.asm["ptx"]
    assert getattr(compiled.metadata, "tmem_size", 0) <= 512


@pytest.mark.parametrize(
    ("arch", "rows", "element", "gated", "instruction"),
    [
        (80, 8, "bf16", True, "mma.sync"),
        (80, 128, "fp16", False, "mma.sync"),
        (80, 128, "fp32", True, "mma.sync"),
        (90, 8, "bf16", False, "mma.sync"),
        (90, 64, "bf16", True, "wgmma.mma_async"),
        (90, 128, "bf16", True, "wgmma.mma_async"),
        (90, 128, "bf16", False, "wgmma.mma_async"),
        (100, 128, "bf16", True, "tcgen05.mma"),
        (100, 128, "bf16", False, "tcgen05.mma"),
    ],
)
def test_grouped_products_compile_to_good_code(
    arch: int,
    rows: int,
    element: str,
    gated: bool,
    instruction: str,
    compile_kernel: CompileKernel,
    check_resources: CheckResources,
) -> None:
    tile = default_tile(rows, gated, BYTES[element])
    sizes = {
        "GATHERED": gated,
        "GATED": gated,
        "SCALED": not gated,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "INNER": tile.inner,
        "STAGES": tile.stages,
        "PRECISION": "tf32x3" if element == "fp32" else "tf32",
    }
    types = {"row_ptr": "*i32", "offset_ptr": "*i32", "factor_ptr": "*fp32"}
    strides = ("columns", "inner", "x_stride", "group_stride", "column_stride")
    compiled = compile_kernel(arch, multiply_tile, element, sizes, tile.warps, types, strides)
    check_resources(compiled, SMALLEST_SHARED_MEMORY)
    assert instruction in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]  # the next tiles are loaded during the arithmetic of this one
    assert getattr(compiled.metadata, "tmem_size", 0) <= 512
