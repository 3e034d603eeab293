import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.engine.spmd.mesh import (
    DATA,
    EXPERT,
    EXPERT_TENSOR,
    EXPERTS,
    TENSOR,
    Groups,
    Mesh,
    Parallelism,
    PlacementError,
    alone,
    divisors,
    share,
)


@given(st.integers(0, 200), st.integers(1, 40))
def test_shares_are_the_whole_in_order_and_differ_by_at_most_one(total: int, parts: int) -> None:
    shares = share(total, parts)
    assert [i for part in shares for i in part] == list(range(total))
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    tp, dp = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    ep = draw(st.sampled_from(divisors(tp * dp)))
    return Mesh.of(Parallelism(tp, dp, ep=ep))


@given(meshes())
def test_groups_are_partitions_and_coordinates_tell_members_apart(mesh: Mesh) -> None:
    for axes in ((), (TENSOR,), (DATA,), (EXPERT,), (EXPERT_TENSOR,), EXPERTS, (DATA, TENSOR)):
        groups = mesh.groups(axes)
        assert groups.world == mesh.world
        for part in groups:
            assert len(part) == mesh.size(axes)
            assert sorted(mesh.coordinate(rank, axes) for rank in part) == list(range(mesh.size(axes)))
    assert mesh.groups(()) == alone(mesh.world)
    assert len(mesh.groups((DATA, TENSOR)).parts) == 1


def test_groups_of_one_size_are_not_equal_if_their_ranks_differ() -> None:
    mesh = Mesh.of(Parallelism(2, 2))
    tensor, data = mesh.groups((TENSOR,)), mesh.groups((DATA,))
    assert tensor.size == data.size
    assert tensor != data
    assert tensor.parts == ((0, 1), (2, 3))
    assert data.parts == ((0, 2), (1, 3))
    assert not tensor.refines(data)
    assert alone(4).refines(tensor)


@pytest.mark.parametrize("parts", [((0, 1), (1, 2)), ((0, 2),), ((1, 0),), ((1,), (0,)), ((0,), ())])
def test_what_is_no_partition_in_order_is_refused(parts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"partition|order"):
        Groups(parts)


@pytest.mark.parametrize(
    ("parallelism", "message"),
    [
        (Parallelism(4, 1, ep=3), r"--ep is 3, .* 4 ranks \(--tp 4 x --dp 1\); use 1, 2 or 4"),
        (Parallelism(2, 3, dense_tp=4), r"--dense-tp is 4, .* 6 ranks .*; use 1, 2, 3 or 6"),
        (Parallelism(2, 2, ep=2, expert_tp=4), r"--expert-tp is 4, .* over --ep 2; use 1 or 2"),
        (Parallelism(2, 1, vocab_tp=0), "--vocab-tp is 0, .*use 1 or 2"),
        (Parallelism(0, 1), "--tp is 0; use at least 1"),
        (Parallelism(2, -1), "--dp is -1; use at least 1"),
    ],
)
def test_sizes_that_do_not_fit_the_world_are_refused_with_those_that_do(parallelism: Parallelism, message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        Mesh.of(parallelism)
