"""Batches for the tests of MLA decode, shared with the cases that run under Triton's interpreter, and the inspection of
compiled kernels."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenspeed.kernels import mla_decode

SCALE = 576**-0.5


@dataclass(frozen=True)
class MlaBatch:
    """Random rows over a shuffled page table; everything that must not be read is poisoned."""

    q: Tensor
    kv_cache: Tensor
    block_table: Tensor
    context_lens: Tensor
    scale: float = SCALE

    def oracle(self) -> tuple[Tensor, Tensor]:
        """The definition in float64, on the inputs as rounded to their dtype."""
        return mla_decode(
            self.q.double(),
            self.kv_cache.double(),
            self.block_table,
            self.context_lens,
            scale=self.scale,
            kernel="reference",
        )

    def poisoned_results(self) -> tuple[Tensor, Tensor]:
        """Buffers for out and lse that are NaN until written."""
        rows, q_len, heads, _ = self.q.shape
        out = torch.full((rows, q_len, heads, 512), torch.nan, dtype=self.q.dtype)
        return out, torch.full((rows, q_len, heads), torch.nan)


def _make_mla_batch(
    contexts: list[int],
    *,
    q_len: int = 1,
    heads: int = 16,
    block_size: int = 64,
    dtype: torch.dtype = torch.float32,
    magnitude: float = 1.0,
    seed: int = 0,
) -> MlaBatch:
    """`magnitude` is the standard deviation of the scores. Cache positions outside all contexts are NaN, and entries of
    the block table behind a context are out of range."""
    random = torch.Generator().manual_seed(seed)
    per_row = [-(-context // block_size) for context in contexts]
    spare = 2
    order = torch.randperm(sum(per_row) + spare, generator=random).int()
    block_table = torch.full((len(contexts), max(per_row) + 1), 2**30, dtype=torch.int32)
    kv_cache = torch.full((len(order), block_size, 576), torch.nan)
    used = 0
    for row, (context, blocks) in enumerate(zip(contexts, per_row, strict=True)):
        block_table[row, :blocks] = order[used : used + blocks]
        for index in range(blocks):
            filled = min(block_size, context - index * block_size)
            kv_cache[order[used + index], :filled] = torch.randn(filled, 576, generator=random)
        used += blocks
    q = torch.randn(len(contexts), q_len, heads, 576, generator=random) * magnitude
    return MlaBatch(q.to(dtype), kv_cache.to(dtype), block_table, torch.tensor(contexts, dtype=torch.int32))


@pytest.fixture
def make_mla_batch() -> Callable[..., MlaBatch]:
    """See `_make_mla_batch`."""
    return _make_mla_batch


def _relative_error(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected| in the Euclidean norm; NaN anywhere in `got` gives NaN, which compares false."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """See `_relative_error`."""
    return _relative_error


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile anew, outside the user's cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return tmp_path


@pytest.fixture
def check_resources(tmp_path: Path) -> Callable[..., None]:
    """Checks of a compiled kernel and the shared memory a block may have: no trap instead of code, shared memory within
    the limit, no register spilled to memory (but for `spilled` bytes a thread)."""

    def check(compiled: Any, shared_limit: int, spilled: int = 0) -> None:
        import triton

        assert "trap;" not in compiled.asm["ptx"]
        assert compiled.metadata.shared <= shared_limit
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        dump = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
        usage = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
        found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
        assert found is not None, usage
        registers, stack, local = map(int, found.groups())
        assert stack <= spilled and local == 0, usage
        assert registers <= 255
        assert not re.search(r"\b(ld|st)\.local", compiled.asm["ptx"])

    return check


@pytest.fixture
def compile_kernel(fresh_cache: Path) -> Callable[..., Any]:
    """Compiles a Triton kernel for a compute capability that this machine need not have.

    Arguments are pointers to `element` if their name ends in _ptr, 32-bit integers otherwise, unless `types` says
    something else. Pointers and what is named in `aligned` are multiples of 16.
    """

    def compile_for(
        arch: int,
        kernel: Any,
        element: str,
        constexprs: dict[str, Any],
        warps: int,
        types: dict[str, str] | None = None,
        aligned: tuple[str, ...] = (),
    ) -> Any:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature = {}
        for name in kernel.arg_names:
            default = "constexpr" if name in constexprs else f"*{element}" if name.endswith("_ptr") else "i32"
            signature[name] = (types or {}).get(name, default)
        attributes = {
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(kernel.arg_names)
            if name.endswith("_ptr") or name in aligned
        }
        source = ASTSource(kernel, signature, constexprs=constexprs, attrs=attributes)
        return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})

    return compile_for
