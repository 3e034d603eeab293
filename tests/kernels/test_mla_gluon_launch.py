"""The launch that the Gluon kernels of MLA decode share, with kernels that record what they are given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0")

from tokenspeed.kernels import plan_mla_decode
from tokenspeed.kernels.mla import gluon_blackwell, gluon_hopper, gluon_hopper_fp8, gluon_launch

pytestmark = pytest.mark.serve

ROWS, Q_LEN, HEADS, MAX_BLOCKS = 3, 2, 40, 4


class Recorder:
    """Stands for a compiled kernel: keeps the grid, the arguments by the kernel's names for them, and the options."""

    def __init__(self, kernel: Any) -> None:
        self.names = [param.name for param in kernel.params if not param.is_constexpr]
        self.grid: tuple[int, ...] = ()
        self.given: dict[str, Any] = {}
        self.options: dict[str, Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grid = grid

        def launch(*arguments: Any, **options: Any) -> None:
            self.given = dict(zip(self.names, arguments, strict=True))
            self.options = options

        return launch


@pytest.fixture(params=[gluon_hopper, gluon_hopper_fp8, gluon_blackwell], ids=lambda module: module.__name__[31:])
def module(request: Any) -> Iterator[ModuleType]:
    yield request.param


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, ...]]:
    """What the merge was launched with."""
    calls: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(gluon_launch, "merge", lambda *tensors, after_launch: calls.append(tensors))
    return calls


def record(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    name = "attend_part_fp8" if module is gluon_hopper_fp8 else "attend_part"
    recorder = Recorder(getattr(module, name))
    monkeypatch.setattr(module, name, recorder)
    return recorder


def run(module: ModuleType, q: Tensor, plan: Any = None) -> dict[str, Tensor]:
    rows = len(q)
    cache_dtype = torch.float8_e4m3fn if module is gluon_hopper_fp8 else q.dtype
    tensors = {
        "kv_cache": torch.zeros(rows * MAX_BLOCKS, 64, 576).to(cache_dtype),
        # Wider than the table that is given: the rows' stride is not their width.
        "block_table": torch.zeros(rows, MAX_BLOCKS + 3, dtype=torch.int32)[:, :MAX_BLOCKS],
        "context_lens": torch.arange(rows, dtype=torch.int32) * 100 + 1,
        "out": torch.empty(rows, Q_LEN, HEADS, 512, dtype=q.dtype),
        "lse": torch.empty(rows, Q_LEN, HEADS),
    }
    module.mla_decode(q, scale=0.5, plan=plan, cache_scale=0.25 if cache_dtype != q.dtype else 1.0, **tensors)
    return tensors


def test_kernels_get_what_their_parameters_say(
    module: ModuleType, merged: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(module, monkeypatch)
    lengths = torch.arange(ROWS, dtype=torch.int32) * 100 + 1
    plan = plan_mla_decode(lengths, q_len=Q_LEN, heads=HEADS, max_context=MAX_BLOCKS * 64, programs=5)
    tensors = run(module, torch.zeros(ROWS, Q_LEN, HEADS, 576, dtype=torch.bfloat16), plan)
    given = recorder.given
    assert recorder.grid == (2, 5)  # 80 queries, 64 a program; parts
    for name, tensor in {
        "table_ptr": tensors["block_table"],
        "out_ptr": tensors["out"],
        "lse_ptr": tensors["lse"],
        "parts_ptr": plan.parts,
        "part_out_ptr": plan.part_out,
        "part_lse_ptr": plan.part_lse,
    }.items():
        assert given[name] is tensor, name
    assert torch.equal(given["context_ptr"], tensors["context_lens"])
    assert (given["table_stride"], given["heads"], given["q_len"]) == (MAX_BLOCKS + 3, HEADS, Q_LEN)
    assert given["scale_log2"] == pytest.approx(0.5 / math.log(2) * given.get("cache_scale", 1.0))
    for name, value in given.items():
        if name.endswith("_desc"):
            columns = 576 if name.startswith("q") else tensors["kv_cache"].shape[-1]
            rows = ROWS * Q_LEN * HEADS if name.startswith("q") else tensors["kv_cache"].shape[0] * 64
            assert list(value.shape) == [rows, columns], name
            assert value.block_shape[0] == 64, name
    assert recorder.options["launch_pdl"]
    assert merged == [(plan.part_out, plan.part_lse, plan.cuts, tensors["out"], tensors["lse"])]


def test_queries_anywhere_in_memory_reach_the_kernel_aligned(
    module: ModuleType, merged: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(module, monkeypatch)
    storage = torch.arange(ROWS * Q_LEN * HEADS * 576 + 1).remainder(251).to(torch.float16)
    apart = storage[1:].view(ROWS, Q_LEN, HEADS, 576)
    turned = storage[:-1].view(ROWS, HEADS, Q_LEN, 576).transpose(1, 2)
    for q in (apart, turned):
        run(module, q)
        given = recorder.given
        reached = given["q_ptr"] if "q_ptr" in given else given["q_latent_desc"].base
        assert reached.data_ptr() % 16 == 0 and torch.equal(reached.view(-1, 576), q.reshape(-1, 576))


def test_a_plan_is_made_if_none_is_given_and_nothing_is_launched_for_no_rows(
    module: ModuleType, merged: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(module, monkeypatch)
    run(module, torch.zeros(0, Q_LEN, HEADS, 576, dtype=torch.bfloat16))
    assert not recorder.given and not merged
    tensors = run(module, torch.zeros(ROWS, Q_LEN, HEADS, 576, dtype=torch.bfloat16))
    parts = recorder.given["parts_ptr"]
    assert int(parts[:, 2].sum()) == sum(-(-length // 64) for length in tensors["context_lens"].tolist())
    assert len(merged) == 1
