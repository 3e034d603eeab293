"""MLA prefill: the definition against loops in float64, chunks of a prefix against the whole, and refused arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenspeed.kernels import Capability, explain, mla_prefill, mla_prefill_chunks

pytest.importorskip("triton", reason="triton is not installed: pip install --no-deps triton==3.6.0")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenspeed.kernels.mla_prefill import triton_flash

pytestmark = pytest.mark.serve

LARGE = triton_flash.QUERIES, triton_flash.KEYS, triton_flash.WARPS
SMALL = triton_flash.SMALL_QUERIES, triton_flash.SMALL_KEYS, triton_flash.SMALL_WARPS


def starts(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def vectors(tokens: int, heads: int, width: int, seed: int) -> Tensor:
    return torch.randn(tokens, heads, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("causal", [True, False])
def test_reference_is_the_definition(causal: bool) -> None:
    new, keys, heads = [3, 1, 4], [5, 1, 2], 2  # the last row's first two queries see nothing if causal
    q, k, v = vectors(8, heads, 192, 0), vectors(8, heads, 192, 1), vectors(8, heads, 128, 2)
    out, lse = mla_prefill(q, k, v, starts(*new), starts(*keys), scale=0.05, causal=causal, max_queries=4)
    query = first_key = 0
    for rows_new, rows_keys in zip(new, keys, strict=True):
        for index in range(rows_new):
            seen = max(rows_keys - rows_new + index + 1, 0) if causal else rows_keys
            for head in range(heads):
                scores = k[first_key : first_key + seen, head] @ q[query, head] * 0.05
                total = scores.exp().sum()
                expected = scores.exp() @ v[first_key : first_key + seen, head] / total if seen else torch.zeros(128)
                assert torch.allclose(out[query, head], expected.double(), atol=1e-12)
                assert torch.isclose(lse[query, head].double(), total.log(), rtol=1e-6) or not seen
                assert bool(lse[query, head].isneginf()) == (seen == 0)
            query += 1
        first_key += rows_keys


@pytest.mark.parametrize("bounds", [[(0, 7), (7, 20)], [(0, 20)], [(13, 20), (0, 0), (0, 13)]])
def test_a_prefix_in_chunks_is_the_whole(bounds: list[tuple[int, int]]) -> None:
    """Of two rows the first has a prefix of 20 tokens, the second none."""
    q, k, v = vectors(8, 3, 192, 0), vectors(28, 3, 192, 1), vectors(28, 3, 128, 2)
    q_starts, new_k, new_v = starts(5, 3), torch.cat([k[20:25], k[25:]]), torch.cat([v[20:25], v[25:]])
    chunks = ((k[a:b], v[a:b], starts(b - a, 0)) for a, b in bounds)
    common: dict[str, Any] = {"scale": 0.07, "max_queries": 5}
    out, lse = mla_prefill_chunks(q, new_k, new_v, q_starts, q_starts, chunks, **common)
    expected_out, expected_lse = mla_prefill(q, k, v, q_starts, starts(25, 3), causal=True, **common)
    assert torch.allclose(out, expected_out, atol=1e-6)
    assert torch.allclose(lse, expected_lse, atol=1e-6)


def test_chunks_do_not_add_their_roundings_up() -> None:
    """In bfloat16 sixteen chunks are as exact as one: each rounds its own result, and only the merged one again."""
    q, k, v = (x.bfloat16() for x in (vectors(4, 2, 192, 3), vectors(516, 2, 192, 4), vectors(516, 2, 128, 5)))
    exact, _ = mla_prefill(
        q.double(), k.double(), v.double(), starts(4), starts(516), scale=0.05, causal=True, max_queries=4
    )

    def error(chunk: int) -> float:
        parts = ((k[a : a + chunk], v[a : a + chunk], starts(chunk)) for a in range(0, 512, chunk))
        out, _ = mla_prefill_chunks(
            q, k[512:], v[512:], starts(4), starts(4), parts, scale=0.05, max_queries=4, kernel="reference"
        )
        return float((out.double() - exact).norm() / exact.norm())

    assert error(32) < 1.2 * error(512)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(4, 2, 128)}, r"k has shape \[4, 2, 128\]; it must be \[keys, 2, 192\]"),
        ({"v": torch.zeros(5, 2, 128)}, "v has shape"),
        ({"kv_starts": torch.zeros(4, dtype=torch.int32)}, "kv_starts has shape"),
        ({"scale": -1.0}, "scale is -1.0; it must be greater than 0"),
        ({"q": torch.zeros(3, 192, 2).transpose(1, 2)}, "q has strides"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "q": torch.zeros(3, 2, 192),
        "k": torch.zeros(4, 2, 192),
        "v": torch.zeros(4, 2, 128),
        "q_starts": starts(1, 2),
        "kv_starts": starts(2, 2),
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match=message):
        mla_prefill(**(arguments | change), causal=True, max_queries=2)
    with pytest.raises(TypeError, match="q_starts has dtype"):
        mla_prefill(**(arguments | {"q_starts": starts(1, 2).long()}), causal=True, max_queries=2)


def test_selection() -> None:
    def choice(device: Capability, dtype: torch.dtype, aligned: int = 1) -> str:
        return explain("mla_prefill", device=device, dtype=dtype, heads=16, aligned=aligned).kernel.name

    assert choice(Capability("cuda", 90), torch.bfloat16) == "gluon_hopper"
    assert choice(Capability("cuda", 90), torch.bfloat16, aligned=0) == "triton_flash"
    assert choice(Capability("cuda", 100), torch.float16) == "triton_flash"
    assert choice(Capability("cuda", 90), torch.float32) == "reference"
    assert choice(Capability("cpu"), torch.bfloat16) == "reference"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("arch", "shape", "shared_limit"),
    [
        (80, SMALL, 101_376),
        (89, SMALL, 101_376),
        (90, LARGE, 232_448),
        (100, LARGE, 232_448),
    ],
)
def test_triton_flash_compiles_to_good_code(
    arch: int,
    shape: tuple[int, int, int],
    shared_limit: int,
    causal: bool,
    check_resources: Callable[[Any, int], None],
    fresh_cache: Path,
) -> None:
    queries, keys, warps = shape
    kernel = triton_flash.attend_queries
    constexprs = {"CAUSAL": causal, "QUERIES": queries, "KEYS": keys, "STAGES": triton_flash.STAGES}
    types = {"scale_log2": "fp32", "heads": "i32", "lse_ptr": "*fp32", "q_starts_ptr": "*i32", "kv_starts_ptr": "*i32"}
    signature = {name: "constexpr" if name in constexprs else types.get(name, "*bf16") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name.endswith("_ptr")}
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    check_resources(compiled, shared_limit)
