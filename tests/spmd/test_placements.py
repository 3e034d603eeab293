from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenspeed.engine.spmd.mesh import (
    DENSE,
    EXPERT,
    EXPERT_TENSOR,
    TENSOR,
    Mesh,
    Parallelism,
    PlacementError,
    divisors,
)
from tokenspeed.engine.spmd.placements import Column, Experts, Heads, Once, Row, Weight


def mesh(tp: int) -> Mesh:
    return Mesh.of(Parallelism(tp))


@given(st.integers(1, 12), st.integers(1, 60), st.sampled_from([1, 4, 128]))
def test_columns_are_cut_into_shares_in_whole_units(tp: int, units: int, unit: int) -> None:
    assume(tp <= units)
    size = units * unit - unit // 2
    ranges = [Weight("w", (size, 3), Column(DENSE, unit)).slices(mesh(tp), rank)[0] for rank in range(tp)]
    assert [i for r in ranges for i in r] == list(range(size))
    assert all(r.start % unit == 0 for r in ranges)


def test_a_dimension_smaller_than_the_axis_is_refused_by_name() -> None:
    with pytest.raises(
        PlacementError, match=r"m\.down: --dense-tp is 4, but there are only 300 values in units of 128"
    ):
        Weight("m.down", (8, 300), Row(DENSE, 128)).slices(mesh(4), 0)


@given(st.integers(1, 16), st.integers(1, 8), st.integers(1, 64))
def test_each_rank_has_the_keys_of_its_queries_in_equal_groups(kv_heads: int, group: int, tp: int) -> None:
    heads = Heads(TENSOR, kv_heads * group, kv_heads)
    world = mesh(tp)
    try:
        held = [heads.of(world, rank) for rank in range(tp)]
    except PlacementError as error:
        assert tp > kv_heads
        assert tp % kv_heads or tp > kv_heads * group
        assert "use 1" in str(error)
        return
    assert [q for queries, _ in held for q in queries] == list(range(kv_heads * group))
    for queries, keys in held:
        here = len(queries) // len(keys)
        assert [keys.start + i // here for i in range(len(queries))] == [q // group for q in queries]


def test_slices_of_heads_are_whole_heads() -> None:
    heads = Heads(TENSOR, 8, 2)
    assert Weight("q", (32, 5), heads).slices(mesh(4), 1) == (range(8, 16), range(5))
    assert Weight("k", (8, 5), replace(heads, kv=True)).slices(mesh(4), 1) == (range(4), range(5))
    assert Weight("k", (8, 5), replace(heads, kv=True)).slices(mesh(4), 2) == (range(4, 8), range(5))
    assert Weight("o", (5, 32), replace(heads, dim=1)).slices(mesh(4), 3) == (range(5), range(24, 32))
    with pytest.raises(PlacementError, match="does not hold 8 heads"):
        Weight("q", (30, 5), heads).slices(mesh(2), 0)


@given(st.integers(1, 3), st.integers(1, 4))
def test_experts_and_their_width_are_tiled(ep: int, inner: int) -> None:
    world = Mesh.of(Parallelism(ep * inner, ep=ep))
    weight = Weight("e.{expert}.down", (7, 5, 9), Experts(EXPERT, EXPERT_TENSOR, inner_dim=2))
    held = [weight.slices(world, rank) for rank in range(world.world)]
    cells = [(e, w) for experts, _, width in held for e in experts for w in width]
    assert sorted(cells) == [(e, w) for e in range(7) for w in range(9)]
    names = [name for rank in range(world.world) for name in weight.tensors(world, rank)]
    assert set(names) == {f"e.{e}.down" for e in range(7)}


@pytest.mark.parametrize("tp", divisors(8))
def test_what_is_placed_once_is_held_once(tp: int) -> None:
    bias = Weight("b", (6,), Once(TENSOR))
    assert sum(bias.values(mesh(tp), rank) for rank in range(tp)) == 6
