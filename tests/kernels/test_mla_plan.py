"""How a batch is divided: laws of the plan and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.kernels import mla_decode, plan_mla_decode
from tokenspeed.kernels.mla import MlaPlan, Tuning
from tokenspeed.kernels.mla.tuning import DEFAULT

pytestmark = pytest.mark.serve

LENGTHS = st.lists(st.one_of(st.just(0), st.integers(1, 4000), st.integers(3800, 4000)), min_size=1, max_size=60)


def plan_for(contexts: list[int], programs: int, tuning: Tuning = DEFAULT, heads: int = 16) -> MlaPlan:
    lengths = torch.tensor(contexts, dtype=torch.int32)
    most = max(*contexts, 1)
    return plan_mla_decode(lengths, q_len=1, heads=heads, max_context=most, programs=programs, tuning=tuning)


def stretches(plan: MlaPlan, contexts: list[int]) -> dict[int, list[tuple[int, int, int]]]:
    """Of each row, the part, first and last tile of each of its stretches, as a program walks through its part."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for part, (row, tile, count, _) in enumerate(plan.parts.tolist()):
        while count > 0:
            tiles = -(-contexts[row] // 64)
            last = min(tiles, tile + count)
            if tile < last:
                found.setdefault(row, []).append((part, tile, last))
                count -= last - tile
            row, tile = row + 1, 0
    return found


@given(contexts=LENGTHS, programs=st.integers(1, 140), heads=st.sampled_from([16, 64, 128]))
@settings(deadline=None)
def test_every_tile_is_in_one_part_and_every_cut_row_is_listed(contexts: list[int], programs: int, heads: int) -> None:
    plan = plan_for(contexts, programs, heads=heads)
    found = stretches(plan, contexts)
    (count, most, _, _), *listed = plan.cuts.tolist()
    cuts = {row: (first, slots) for row, first, slots, _ in listed[:count]}
    slots_taken: set[int] = set()
    for row, context in enumerate(contexts):
        own = found.get(row, [])
        tiles = [tile for _, first, last in own for tile in range(first, last)]
        assert tiles == list(range(-(-context // 64)))
        assert (len(own) != 1) == (row in cuts)
        if row in cuts:
            first_slot, slots = cuts[row]
            assert slots == len(own)
            assert [part + row for part, _, _ in own] == list(range(first_slot, first_slot + slots))
            taken = set(range(first_slot, first_slot + slots))
            assert not taken & slots_taken
            slots_taken |= taken
    assert most == max(len(own) for own in found.values()) if found else most == 0
    assert all(slot < plan.part_lse.shape[0] for slot in slots_taken)


@given(contexts=LENGTHS, programs=st.integers(1, 140))
@settings(deadline=None)
def test_no_part_is_much_longer_than_its_share(contexts: list[int], programs: int) -> None:
    tiles = [-(-context // 64) for context in contexts]
    longest = max(plan_for(contexts, programs, Tuning(1, 4096)).parts[:, 2].tolist())
    used = sum(own > 0 for own in tiles)
    share = -(-(sum(tiles) + 2 * used) // min(programs, max(sum(tiles), 1)))
    assert longest <= max(share, 3) * 17 / 16 + 1


@pytest.mark.parametrize(("rows", "context", "programs"), [(128, 8192, 132), (128, 1024, 132), (64, 8192, 66)])
def test_rows_of_equal_length_are_not_cut_if_that_costs_little(rows: int, context: int, programs: int) -> None:
    assert plan_for([context] * rows, programs).cuts[0, 0] == 0


def test_more_queries_give_longer_parts() -> None:
    few, many = (plan_for([8192], 132, Tuning(4, 4096), heads=heads) for heads in (16, 128))
    assert (few.parts[:, 2] > 0).sum() == 128  # one tile each
    assert (many.parts[:, 2] > 0).sum() == 32


def test_a_plan_of_another_shape_is_refused() -> None:
    q = torch.zeros(2, 1, 16, 576)
    inputs = q, torch.zeros(4, 64, 576), torch.zeros(2, 2, dtype=torch.int32), torch.tensor([1, 2], dtype=torch.int32)
    with pytest.raises(ValueError, match="plan is for 3 rows of 16 queries"):
        mla_decode(*inputs, scale=1.0, plan=plan_for([1, 2, 3], 4))
    with pytest.raises(ValueError, match="plan is for 2 rows of 32 queries"):
        mla_decode(*inputs, scale=1.0, plan=plan_for([1, 2], 4, heads=32))
    with pytest.raises(ValueError, match="this plan was made for"):
        plan_for([1, 2, 3], 4).fill(torch.tensor([1, 2], dtype=torch.int32))
    mla_decode(*inputs, scale=1.0, plan=plan_for([1, 2], 4))


def test_scale_of_the_scores_and_of_the_cache_are_checked() -> None:
    q = torch.zeros(1, 1, 16, 576)
    inputs = q, torch.zeros(4, 64, 576), torch.zeros(1, 1, dtype=torch.int32), torch.tensor([1], dtype=torch.int32)
    with pytest.raises(ValueError, match="scale is 0"):
        mla_decode(*inputs, scale=0.0)
    with pytest.raises(ValueError, match=r"cache_scale is 2\.0"):
        mla_decode(*inputs, scale=1.0, cache_scale=2.0)
    eight_bit = q, inputs[1].to(torch.float8_e4m3fn), *inputs[2:]
    with pytest.raises(ValueError, match=r"cache_scale is -1\.0; it must be greater than 0 and finite"):
        mla_decode(*eight_bit, scale=1.0, cache_scale=-1.0)
    with pytest.raises(TypeError, match=r"kv_cache has dtype torch\.float8_e5m2; .* or torch\.float8_e4m3fn"):
        mla_decode(q, inputs[1].to(torch.float8_e5m2), *inputs[2:], scale=1.0)


@pytest.mark.parametrize(("change", "message"), [({"q_len": 0}, "q_len is 0"), ({"programs": -3}, "programs is -3")])
def test_a_plan_refuses_counts_below_one(change: dict[str, int], message: str) -> None:
    lengths = torch.tensor([1, 2], dtype=torch.int32)
    arguments: dict[str, Any] = {"q_len": 1, "heads": 16, "max_context": 64}
    with pytest.raises(ValueError, match=message):
        plan_mla_decode(lengths, **arguments | change)
    with pytest.raises(TypeError, match=r"context_lens has dtype torch\.int64"):
        plan_mla_decode(lengths.long(), q_len=1, heads=16, max_context=64)


def test_an_8_bit_cache_is_a_rounded_one() -> None:
    random = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 4, 576, generator=random)
    cache = (torch.randn(3, 16, 576, generator=random) / 0.02).to(torch.float8_e4m3fn)
    table, lengths = torch.tensor([[2, 0, 1]], dtype=torch.int32), torch.tensor([37], dtype=torch.int32)
    got = mla_decode(q, cache, table, lengths, scale=0.05, cache_scale=0.02)
    expected = mla_decode(q, cache.float() * 0.02, table, lengths, scale=0.05)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, expected, strict=True))
