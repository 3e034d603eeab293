"""Page hashes are equal exactly where prefixes are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.simulator.errors import WorkloadError
from tokenspeed.simulator.workload.page_hashes import expand, mix, numbered_blocks, split_ratio

ID_LISTS = st.lists(st.integers(0, 2**40), max_size=12, unique=True)


def hashes(ids: list[int], ratio: int, scope: int, blocks: int) -> list[int]:
    return list(expand(np.array(ids, dtype=np.int64), ratio, scope, blocks).tolist())


@given(ID_LISTS, st.sampled_from([1, 2, 8]), st.integers(0, 5), st.integers(0, 100))
def test_expand_gives_one_distinct_hash_per_block(ids: list[int], ratio: int, scope: int, blocks: int) -> None:
    result = hashes(ids, ratio, scope, blocks)
    assert len(result) == min(len(ids) * ratio, blocks)
    assert len(set(result)) == len(result)


@given(ID_LISTS, ID_LISTS, st.sampled_from([1, 4]))
def test_blocks_match_exactly_where_ids_do(a: list[int], b: list[int], ratio: int) -> None:
    ha, hb = hashes(a, ratio, 1, 1000), hashes(b, ratio, 1, 1000)
    for position, (x, y) in enumerate(zip(ha, hb, strict=False)):
        assert (x == y) == (a[position // ratio] == b[position // ratio])


@given(ID_LISTS, st.integers(0, 1000), st.integers(1001, 2000))
def test_scopes_never_match(ids: list[int], one: int, other: int) -> None:
    assert set(hashes(ids, 2, one, 1000)).isdisjoint(hashes(ids, 2, other, 1000))


@given(st.integers(0, 2**20), st.integers(0, 50), st.integers(0, 50))
def test_numbered_blocks_continue_each_other(scope: int, first: int, more: int) -> None:
    whole = numbered_blocks(scope, 0, first + more).tolist()
    assert whole == numbered_blocks(scope, 0, first).tolist() + numbered_blocks(scope, first, more).tolist()
    assert len(set(whole)) == first + more


def test_mix_is_splitmix64() -> None:
    # First outputs of the generator with seed 0 (reference implementation by Vigna, splitmix64.c).
    state = np.array([0, 0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], dtype=np.uint64)
    assert [f"{value:016x}" for value in mix(state).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@pytest.mark.parametrize(("trace", "block", "ratio"), [(512, 64, 8), (64, 64, 1), (512, 512, 1), (64, 1, 64)])
def test_split_ratio(trace: int, block: int, ratio: int) -> None:
    assert split_ratio(trace, block) == ratio


@pytest.mark.parametrize("block", [0, 3, 128, 1024])
def test_split_ratio_names_the_block_sizes(block: int) -> None:
    with pytest.raises(WorkloadError, match=rf"block_size is {block} .* blocks of 64 tokens"):
        split_ratio(64, block)
