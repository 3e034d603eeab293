"""Writing keys and values into the paged cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.kernels import write_kv

pytestmark = pytest.mark.serve

BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM = 5, 4, 3, 8


def make_caches(interleaved: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Two caches, each contiguous or the two halves of the blocks of one tensor."""
    if interleaved:
        pool = torch.randn(BLOCKS, 2, BLOCK_SIZE, KV_HEADS, HEAD_DIM).to(dtype)
        return pool[:, 0], pool[:, 1]
    pool = torch.randn(2, BLOCKS, BLOCK_SIZE, KV_HEADS, HEAD_DIM).to(dtype)
    return pool[0], pool[1]


@settings(max_examples=40, deadline=None)
@given(
    slots=st.lists(st.integers(0, BLOCKS * BLOCK_SIZE - 1), unique=True),
    interleaved=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_exactly_the_slots_are_written(slots: list[int], interleaved: bool, dtype: torch.dtype) -> None:
    caches = make_caches(interleaved, dtype)
    k, v = torch.randn(2, len(slots), KV_HEADS, HEAD_DIM).to(dtype)
    expected = [cache.clone() for cache in caches]
    for cache, values in zip(expected, (k, v), strict=True):
        for token, slot in enumerate(slots):
            cache[slot // BLOCK_SIZE, slot % BLOCK_SIZE] = values[token]
    write_kv(k, v, *caches, torch.tensor(slots, dtype=torch.int64))
    for cache, want in zip(caches, expected, strict=True):
        assert torch.equal(cache, want)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("slot", [-1, -BLOCK_SIZE, BLOCKS * BLOCK_SIZE])
def test_a_slot_outside_the_cache_is_refused(slot: int, interleaved: bool) -> None:
    caches = make_caches(interleaved, torch.float32)
    before = [cache.clone() for cache in caches]
    new = torch.randn(1, KV_HEADS, HEAD_DIM)
    with pytest.raises(ValueError, match=r"slot_mapping holds a slot outside 0\.\.19"):
        write_kv(new, new, *caches, torch.tensor([slot]))
    assert all(torch.equal(cache, old) for cache, old in zip(caches, before, strict=True))


def test_wrong_arguments_are_named() -> None:
    k_cache, v_cache = make_caches(False, torch.float32)
    new, slots = torch.zeros(2, KV_HEADS, HEAD_DIM), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"v has shape \[1, 3, 8\]; it must be \[2, 3, 8\]"):
        write_kv(new, new[:1], k_cache, v_cache, slots)
    with pytest.raises(ValueError, match=r"k_cache has shape .*; it must be \[blocks, block_size, 3, 8\]"):
        write_kv(new, new, k_cache[0], v_cache, slots)
    with pytest.raises(ValueError, match=r"slot_mapping has shape \[1\]; it must be \[2\]"):
        write_kv(new, new, k_cache, v_cache, slots[:1])
    with pytest.raises(TypeError, match=r"slot_mapping has dtype torch.int32; it must be torch.int64"):
        write_kv(new, new, k_cache, v_cache, slots.int())
    with pytest.raises(TypeError, match=r"v_cache has dtype torch.bfloat16; it must be torch.float32"):
        write_kv(new, new, k_cache, v_cache.bfloat16(), slots)
    with pytest.raises(ValueError, match=r"one device; got .*slot_mapping on meta"):
        write_kv(new, new, k_cache, v_cache, slots.to("meta"))
