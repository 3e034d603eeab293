"""The schedule of the Blackwell kernel of MLA decode, emulated: it has never been run on a device.

Both roles of a program are written again below, step by step, with their buffers and barriers. Copies and products
end at random times, in the order that the hardware promises, and results go through the kernel's layout of partial
results. What this cannot show is whether the compiled code does the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenspeed.kernels import Capability, explain, plan_mla_decode
from tokenspeed.kernels.mla import MlaPlan

pytestmark = pytest.mark.serve


class Barrier:
    """An mbarrier for one arrival. A wait for a parity passes while the phase under way has the other one."""

    def __init__(self) -> None:
        self.phase = 0

    def arrive(self) -> None:
        self.phase += 1


Steps = Iterator[tuple[Barrier, int]]
"""A role: it yields what it waits for."""


def box(values: Tensor, first_row: int, rows: int = 64) -> Tensor:
    """What TMA copies: rows from first_row on, zero behind the last."""
    copied = values[first_row : first_row + rows]
    return torch.cat([copied, copied.new_zeros(rows - len(copied), values.shape[1])])


class Program:
    """One program: 64 queries, one part of all tiles."""

    def __init__(self, batch: Any, plan: MlaPlan, out: Tensor, lse: Tensor, block: int, part: int, seed: int) -> None:
        self.batch, self.plan, self.out, self.lse = batch, plan, out, lse
        _, self.q_len, self.heads, _ = batch.q.shape
        self.queries = self.q_len * self.heads
        self.first_query, self.part = block * 64, part
        self.row, self.tile, self.count, _ = plan.parts[part].tolist()
        self.random = random.Random(seed)
        poison = torch.full((64, 576), torch.nan)
        self.q, self.keys = poison.clone(), [poison.clone(), poison.clone()]
        self.weights, self.scores = torch.full((64, 64), torch.nan), torch.full((64, 64), torch.nan)
        self.weighted = torch.full((64, 512), torch.nan)
        self.q_full, self.q_empty, self.scores_done, self.out_done = (Barrier() for _ in range(4))
        self.full, self.empty = [Barrier(), Barrier()], [Barrier(), Barrier()]
        self.copies: list[Callable[[], None]] = []  # end in any order
        self.products: list[Callable[[], None]] = []  # end in order

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Row, its context, first and last tile."""
        row, tile, done = self.row, self.tile, 0
        while done < self.count:
            context = int(self.batch.context_lens[row])
            last = min((context + 63) // 64, tile + self.count - done)
            if tile < last:
                yield row, context, tile, last
                done += last - tile
            row, tile = row + 1, 0

    def produce(self) -> Steps:
        flat_q, tokens = self.batch.q.flatten(0, 2), self.batch.kv_cache.flatten(0, 1)
        turn = 0
        for segment, (row, _, tile, last) in enumerate(self.segments()):
            yield self.q_empty, (segment & 1) ^ 1

            def copy_queries(row: int = row) -> None:
                self.q.copy_(box(flat_q, row * self.queries + self.first_query))
                self.q_full.arrive()

            self.copies.append(copy_queries)
            for index in range(tile, last):
                token, buffer = int(self.batch.block_table[row, index]) * 64, turn & 1
                yield self.empty[buffer], ((turn >> 1) & 1) ^ 1

                def copy_tile(token: int = token, buffer: int = buffer) -> None:
                    self.keys[buffer].copy_(box(tokens, token))
                    self.full[buffer].arrive()

                self.keys[buffer].fill_(torch.nan)  # under way: nobody may still read
                self.copies.append(copy_tile)
                turn += 1

    def attend(self) -> Steps:
        scale_log2 = self.batch.scale / torch.log(torch.tensor(2.0))
        number = self.first_query + torch.arange(64)
        turn = 0
        for segment, (row, context, tile, last) in enumerate(self.segments()):
            visible = context - self.q_len + number // self.heads + 1
            largest, total = torch.full((64,), -1e30), torch.zeros(64)
            yield self.q_full, segment & 1
            for index in range(tile, last):
                buffer = turn & 1
                yield self.full[buffer], (turn >> 1) & 1

                def multiply_keys(buffer: int = buffer, is_last: bool = index + 1 == last) -> None:
                    self.scores = self.q @ self.keys[buffer].T
                    self.scores_done.arrive()
                    if is_last:
                        self.q.fill_(torch.nan)
                        self.q_empty.arrive()

                self.products.append(multiply_keys)
                yield self.scores_done, turn & 1
                scores = self.scores
                if index * 64 + 64 > context - self.q_len + 1:
                    key = index * 64 + torch.arange(64)
                    scores = scores.where(key < visible[:, None], float("-inf"))
                    if index * 64 + 64 > context:
                        self.keys[buffer][context - index * 64 :] = 0
                new_largest = torch.maximum(largest, scores.amax(1) * scale_log2)
                decay = torch.exp2(largest - new_largest)
                weights = torch.exp2(scores * scale_log2 - new_largest[:, None])
                total, largest = total * decay + weights.sum(1), new_largest
                if index > tile:
                    self.weighted *= decay[:, None]
                self.weights.copy_(weights.to(self.batch.q.dtype))

                def multiply_values(buffer: int = buffer, use_acc: bool = index > tile) -> None:
                    product = self.weights @ self.keys[buffer][:, :512]
                    self.weighted = self.weighted + product if use_acc else product
                    self.weights.fill_(torch.nan)
                    self.out_done.arrive()
                    self.empty[buffer].arrive()

                self.products.append(multiply_values)
                turn += 1
            yield self.out_done, (turn - 1) & 1
            divisor = total.where(total > 0, 1.0)
            whole = tile == 0 and last == (context + 63) // 64
            slot = row if whole else self.part + row
            target_out, target_lse = (self.out, self.lse) if whole else (self.plan.part_out, self.plan.part_lse)
            own = number[number < self.queries]
            natural = (largest + divisor.log2()) * 0.6931471805599453
            target_lse[slot, own] = natural.where(total > 0, float("-inf"))[: len(own)]
            target_out[slot, own] = (self.weighted * (1 / divisor)[:, None])[: len(own)].to(target_out.dtype)

    def run(self) -> None:
        """Let a role that may, or the copy or product that is next, take a step, at random, until both roles end."""
        roles: dict[str, Steps] = {"produce": self.produce(), "attend": self.attend()}
        waits: dict[str, tuple[Barrier, int] | None] = dict.fromkeys(roles)
        while roles:
            ready = [role for role in roles if (wait := waits[role]) is None or wait[0].phase & 1 != wait[1]]
            ready += ["copy"] * bool(self.copies) + ["product"] * bool(self.products)
            assert ready, f"each role waits for the other: {waits}"
            step = self.random.choice(ready)
            if step == "copy":
                self.copies.pop(self.random.randrange(len(self.copies)))()
            elif step == "product":
                self.products.pop(0)()
            else:
                waits[step] = next(roles[step], None)
                if waits[step] is None:
                    del roles[step]


def merge(plan: MlaPlan, out: Tensor, lse: Tensor) -> None:
    """The rows that the plan cuts, from its slots."""
    (count, _, _, _), *cuts = plan.cuts.tolist()
    for row, first, slots, _ in cuts[:count]:
        part_lse = plan.part_lse[first : first + slots].double()
        merged = part_lse.logsumexp(0) if slots else torch.full((out.shape[1],), float("-inf"))
        share = (part_lse - merged.where(merged.isfinite(), 0.0)).exp()
        out[row] = (share[..., None] * plan.part_out[first : first + slots]).sum(0).to(out.dtype)
        lse[row] = merged


def emulate(batch: Any, programs: int, seed: int) -> tuple[Tensor, Tensor]:
    rows, q_len, heads, _ = batch.q.shape
    queries = q_len * heads
    plan = plan_mla_decode(
        batch.context_lens, q_len=q_len, heads=heads, max_context=batch.block_table.shape[1] * 64, programs=programs
    )
    plan.part_out.fill_(torch.nan)
    plan.part_lse.fill_(torch.nan)
    out, lse = batch.poisoned_results()
    for block in range(-(-queries // 64)):
        for part in range(len(plan.parts)):
            Program(batch, plan, out.view(rows, queries, 512), lse.view(rows, queries), block, part, seed + part).run()
    merge(plan, out.view(rows, queries, 512), lse.view(rows, queries))
    return out, lse


@pytest.mark.parametrize(
    ("contexts", "q_len", "heads", "magnitude"),
    [
        ([1, 63, 64, 65, 0, 127, 300], 1, 16, 1.0),
        ([2, 64, 257, 0, 66], 4, 16, 1.0),
        ([70, 200], 1, 128, 1.0),
        ([5, 130, 1000], 2, 48, 1.0),
        ([700, 3], 1, 16, 50.0),
    ],
)
@pytest.mark.parametrize("programs", [1, 3, 16])
def test_the_schedule_is_right_whenever_copies_and_products_end(
    contexts: list[int],
    q_len: int,
    heads: int,
    magnitude: float,
    programs: int,
    make_mla_batch: Callable[..., Any],
    relative_error: Callable[[Tensor, Tensor], float],
) -> None:
    batch = make_mla_batch(contexts, q_len=q_len, heads=heads, dtype=torch.bfloat16, magnitude=magnitude)
    exact_out, exact_lse = batch.oracle()
    for seed in range(3):
        out, lse = emulate(batch, programs, seed)
        assert relative_error(out, exact_out) <= 2.5e-3
        assert torch.equal(lse.isfinite(), exact_lse.isfinite())
        seen = exact_lse.isfinite()
        assert torch.allclose(lse[seen].double(), exact_lse[seen].double(), atol=1e-3)


def test_the_launch_passes_what_the_kernel_takes(
    make_mla_batch: Callable[..., Any],
    relative_error: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The function is called, with the emulation in the place of the device."""
    pytest.importorskip(
        "triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0"
    )
    from tokenspeed.kernels.mla import gluon_blackwell, gluon_launch

    names = gluon_blackwell.attend_part.arg_names
    batch = make_mla_batch([5, 130, 1000], q_len=2, heads=48, dtype=torch.bfloat16)
    q_len, heads = 2, 48

    class Emulated:
        def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
            def launch(*values: Any, **options: Any) -> None:
                given = dict(zip(names, values, strict=True))
                boxes = {name: given[name].block_shape for name in names if name.endswith("_desc")}
                assert boxes == {
                    "latent_desc": [64, 256], "rope_desc": [64, 64], "q_latent_desc": [64, 256], "q_rope_desc": [64, 64]
                }  # fmt: skip
                assert given["latent_desc"].base.data_ptr() == given["rope_desc"].base.data_ptr()
                assert given["q_latent_desc"].base.data_ptr() == given["q_rope_desc"].base.data_ptr()
                assert given["table_stride"] == given["table_ptr"].stride(0)
                assert (given["q_len"], given["heads"], options["num_warps"]) == (q_len, heads, 4)
                rows = len(given["context_ptr"])
                read = SimpleNamespace(
                    q=given["q_latent_desc"].base.view(rows, q_len, heads, 576),
                    kv_cache=given["latent_desc"].base.view(-1, 64, 576),
                    block_table=given["table_ptr"],
                    context_lens=given["context_ptr"],
                    scale=given["scale_log2"] * math.log(2),
                )
                plan: Any = SimpleNamespace(
                    parts=given["parts_ptr"], part_out=given["part_out_ptr"], part_lse=given["part_lse_ptr"]
                )
                out, lse = given["out_ptr"].view(rows, -1, 512), given["lse_ptr"].view(rows, -1)
                for block in range(grid[0]):
                    for part in range(grid[1]):
                        Program(read, plan, out, lse, block, part, seed=part).run()

            return launch

    def merged(part_out: Tensor, part_lse: Tensor, cuts: Tensor, out: Tensor, lse: Tensor, **_: Any) -> None:
        plan: Any = SimpleNamespace(cuts=cuts, part_out=part_out, part_lse=part_lse)
        merge(plan, out.view(len(out), -1, 512), lse.view(len(lse), -1))

    monkeypatch.setattr(gluon_blackwell, "attend_part", Emulated())
    monkeypatch.setattr(gluon_launch, "merge", merged)
    exact_out, exact_lse = batch.oracle()
    strided_q = torch.stack([batch.q, batch.q], 3)[:, :, :, 0]
    for q, programs in ((batch.q, None), (strided_q, 5)):
        plan = programs and plan_mla_decode(
            batch.context_lens, q_len=q_len, heads=heads, max_context=1024, programs=programs
        )
        out, lse = batch.poisoned_results()
        gluon_blackwell.mla_decode(
            q, batch.kv_cache, batch.block_table, batch.context_lens, scale=batch.scale, out=out, lse=lse,
            plan=plan or None,
        )  # fmt: skip
        assert relative_error(out, exact_out) <= 2.5e-3
        assert torch.allclose(lse.double(), exact_lse.double(), atol=1e-3)


def test_it_runs_only_where_it_is_asked_for() -> None:
    pytest.importorskip(
        "triton.experimental.gluon", reason="this triton has no Gluon: pip install --no-deps triton==3.6.0"
    )
    traits: dict[str, Any] = {"heads": 16, "q_len": 1, "block_size": 64, "dense_cache": 1, "cache_bits": 16}
    for arch in (100, 103):
        blackwell = Capability("cuda", arch)
        selection = explain("mla_decode", device=blackwell, dtype=torch.bfloat16, **traits)
        assert selection.kernel.name == "triton_split_kv"
        assert "only named  gluon_blackwell [specialized]: compiled and inspected, never run on a device" in str(
            selection
        )
        named = explain("mla_decode", device=blackwell, dtype=torch.bfloat16, kernel="gluon_blackwell", **traits)
        assert named.kernel.name == "gluon_blackwell"
    for arch in (90, 110, 120):
        found = explain("mla_decode", device=Capability("cuda", arch), dtype=torch.bfloat16, **traits)
        verdicts = {candidate.name: candidate.verdict for candidate in found.candidates}
        assert verdicts["gluon_blackwell"] == "rejected"
