"""The Gluon kernel of MLA decode for Blackwell, which was never run: what it compiles to, its schedule in torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0")
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from tokenspeed.kernels import Capability, explain
from tokenspeed.kernels.mla.gluon_blackwell import (
    GROWTH,
    HALF,
    KEYS,
    QUERIES,
    WEIGHT_WARPS,
    attend_split,
    choose_splits,
)

pytestmark = pytest.mark.serve

SHARED_MEMORY = 232_448
TENSOR_MEMORY_COLUMNS = 512


@pytest.mark.parametrize(("dtype", "result"), [("bf16", "fp32"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_compiles_to_code_of_the_design(
    dtype: str, result: str, check_resources: Callable[[Any, int], None], fresh_cache: Path
) -> None:
    def descriptor(columns: int) -> str:
        layout = gl.NVMMASharedLayout.get_default_for([KEYS, columns], gl.bfloat16)
        return f"tensordesc<{dtype}[{KEYS}, {columns}],{layout!r}>"

    types = {name: "i32" for name in attend_split.arg_names} | {
        "half_desc": descriptor(HALF),
        "rope_desc": descriptor(64),
        "q_ptr": f"*{dtype}",
        "table_ptr": "*i32",
        "context_ptr": "*i32",
        "out_ptr": f"*{result}",
        "lse_ptr": "*fp32",
        "scale_log2": "fp32",
        "value_scale": "fp32",
    }
    names = attend_split.arg_names
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name.endswith("_ptr")}
    source = GluonASTSource(attend_split, types, constexprs={}, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 100, 32), options={"num_warps": WEIGHT_WARPS})
    check_resources(compiled, SHARED_MEMORY)
    assert compiled.metadata.tmem_size <= TENSOR_MEMORY_COLUMNS
    ptx = compiled.asm["ptx"]
    assert ".target sm_100a" in ptx
    assert "mma.sync" not in ptx and "wgmma" not in ptx
    products = re.findall(r"tcgen05\.mma\.cta_group::1\.kind::f16 \[ *%\w+ \+ \d+ *\], (\[?)", ptx)
    # 576 terms of a score, 16 at a time, before the loop and in it; then 32 tokens, with the weights in tensor memory.
    assert products.count("") == 2 * 576 // 16
    assert products.count("[") == KEYS // 16
    assert "tcgen05.commit" in ptx and "tcgen05.ld" in ptx and "tcgen05.st" in ptx
    assert "cp.async.bulk.tensor" in ptx
    assert "mbarrier.try_wait" in ptx
    assert "setmaxnreg.dec" in ptx and "setmaxnreg.inc" in ptx


def emulate(batch: Any, splits: int) -> tuple[Tensor, Tensor]:
    """The kernel's schedule step by step, program by program, with products in float32, and the merge of the splits."""
    rows, q_len, heads, _ = batch.q.shape
    queries = q_len * heads
    flat = batch.q.reshape(rows, queries, 576)
    part_out = torch.full((rows, splits, queries, 512), torch.nan)
    part_lse = torch.full((rows, splits, queries), torch.nan)
    for row in range(rows):
        context = int(batch.context_lens[row])
        tiles = -(-context // KEYS)
        per_split = -(-tiles // splits)
        for split in range(splits):
            first = split * per_split
            count = min(per_split, tiles - first)
            for program in range(2 * -(-queries // QUERIES)):
                half, begin = program % 2, program // 2 * QUERIES
                end = min(begin + QUERIES, queries)
                columns = slice(half * HALF, half * HALF + HALF)
                if count <= 0:
                    part_out[row, split, begin:end, columns], part_lse[row, split, begin:end] = 0.0, -torch.inf
                    continue
                q = torch.zeros(QUERIES, 576)
                q[: end - begin] = flat[row, begin:end].float()
                out, lse = attend(batch, row, q, begin, heads, q_len, context, first, count, columns)
                part_out[row, split, begin:end, columns] = out[: end - begin]
                part_lse[row, split, begin:end] = lse[: end - begin]
    lse = part_lse.logsumexp(1)
    share = torch.exp(part_lse - lse[:, None]).nan_to_num(0.0)
    out = (part_out * share[..., None]).sum(1)
    return out.view(rows, q_len, heads, 512), lse.view(rows, q_len, heads)


def attend(
    batch: Any, row: int, q: Tensor, begin: int, heads: int, q_len: int, context: int, first: int, count: int,
    columns: slice,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One program: scores tile by tile, a maximum that is replaced late, weights rounded, tokens behind zeroed."""
    visible = context - q_len + (begin + torch.arange(QUERIES)) // heads + 1
    largest, total = torch.full((QUERIES,), -torch.inf), torch.zeros(QUERIES)
    output = torch.zeros(QUERIES, HALF)
    for tile in range(first, first + count):
        position = tile * KEYS + torch.arange(KEYS)
        tokens = batch.kv_cache[batch.block_table[row, tile * KEYS // 64].long(), position % 64].float()
        scores = (q @ tokens.T) * (batch.scale / torch.log(torch.tensor(2.0)))
        scores = torch.where(position < visible[:, None], scores, -torch.inf)
        tile_largest = scores.amax(1)
        new_largest = torch.where(tile_largest > largest + GROWTH, tile_largest, largest)
        shift = new_largest.where(new_largest.isfinite(), 0.0)
        weights = torch.exp2(scores - shift[:, None])
        decay = torch.exp2(largest - shift)
        total = total * decay + weights.sum(1)
        if (new_largest > largest).any():
            output = output * decay[:, None]
        largest = new_largest
        values = torch.where((position < context)[:, None], tokens[:, columns], 0.0)
        output = output + weights.to(batch.q.dtype).float() @ values
    divisor = total.where(total > 0, 1.0)
    lse = torch.where(total > 0, (largest + divisor.log2()) * torch.log(torch.tensor(2.0)), -torch.inf)
    return output / divisor[:, None], lse


@pytest.mark.parametrize(
    ("heads", "q_len", "splits", "magnitude"), [(16, 2, 3, 1.0), (128, 1, 1, 1.0), (20, 7, 2, 1.0), (16, 1, 4, 50.0)]
)
def test_the_schedule_computes_attention(
    make_mla_batch: Callable[..., Any],
    relative_error: Callable[[Tensor, Tensor], float],
    heads: int,
    q_len: int,
    splits: int,
    magnitude: float,
) -> None:
    contexts = [1, 31, 32, 33, 0, 65, 200]
    batch = make_mla_batch(contexts, heads=heads, q_len=q_len, magnitude=magnitude, dtype=torch.bfloat16)
    out, lse = emulate(batch, splits)
    expected_out, expected_lse = batch.oracle()
    assert relative_error(out, expected_out) < (2e-3 if magnitude == 1.0 else 4e-3)
    seen = expected_lse.isfinite()
    assert torch.equal(lse.isneginf(), ~seen)
    assert torch.allclose(lse[seen], expected_lse[seen], rtol=1e-6, atol=1e-3)
    assert (out[~seen] == 0).all()


def test_is_never_chosen_unasked_where_another_kernel_fits() -> None:
    traits: dict[str, Any] = {"heads": 128, "q_len": 1, "block_size": 64, "dense_cache": 1, "cache_bits": 16}

    def choice(arch: int, kernel: str | None = None) -> str:
        device = Capability("cuda", arch)
        return explain("mla_decode", device=device, dtype=torch.bfloat16, kernel=kernel, **traits).kernel.name

    assert choice(100) == "triton_split_kv"
    assert choice(100, "gluon_blackwell") == "gluon_blackwell"
    refusals = str(explain("mla_decode", device=Capability("cuda", 90), dtype=torch.bfloat16, **traits))
    assert "gluon_blackwell [untried]: runs on cuda sm_100, not on cuda sm_90" in refusals


@given(programs=st.integers(1, 2048), max_tiles=st.integers(0, 40_000), multiprocessors=st.integers(1, 160))
def test_splits_fill_the_device_once_and_stay_long_enough(programs: int, max_tiles: int, multiprocessors: int) -> None:
    splits = choose_splits(programs, max_tiles, multiprocessors)
    assert splits == 1 or splits * programs <= multiprocessors
    assert splits == 1 or splits * 4 <= max_tiles
