"""The block machine: match a cached prefix, allocate, publish, release, reap and evict."""

from ..expressions import maximum
from .vocabulary import (
    PAGE,
    B,
    Block,
    R,
    Request,
    block_state,
    blocks,
    cached,
    capacity,
    computed,
    fill,
    free,
    held,
    holds,
    known,
    landed,
    last_step,
    leaving,
    limit,
    planned,
    position,
    refs,
    request_state,
    running,
    spec,
    stamp,
    stored,
)


def take(t, r, b):  # type: ignore[no-untyped-def]
    """Effects: the block enters the request's block table."""
    t.set(holds[r, b], True)
    t.add(refs[b], 1)
    t.add(blocks[r], 1)
    t.add(capacity[r], PAGE)


def give_back(t, r, b):  # type: ignore[no-untyped-def]
    """Guards and effects: the block leaves the block table of a request that gives its blocks back."""
    t.stay(request_state[r], R.RETRACTING, R.RELEASING)
    t.guard("held", holds(r, b))
    t.set(holds[r, b], False)
    t.add(refs[b], -1)
    t.add(blocks[r], -1)
    t.set(capacity[r], capacity(r) - PAGE)
    t.set(stored[r], stored(r) - fill(b))


def match(t, r, b):  # type: ignore[no-untyped-def]
    """Guards and effects: a waiting request takes the next block of its prefix by reference."""
    t.stay(request_state[r], R.WAITING)
    t.guard("next in sequence", position(b) == planned(r))
    t.guard("not held yet", ~holds(r, b))
    t.guard("last token recomputed", planned(r) + PAGE < known(r))
    take(t, r, b)
    t.add(stored[r], PAGE)
    t.add(planned[r], PAGE)
    t.add(computed[r], PAGE)


with spec.transition("match_shared", "A prefix block that others hold is shared.", r=Request, b=Block) as (t, r, b):
    t.stay(block_state[b], B.SHARED)
    match(t, r, b)

with spec.transition("match_cached", "A prefix block that nobody holds is taken out of the cache.", r=Request, b=Block) as (t, r, b):
    t.move(block_state[b], B.CACHED, B.SHARED)
    match(t, r, b)
    t.add(cached.place, -1)
    t.add(held.place, 1)

with spec.transition("allocate", "A running request gets a free block at the end of its sequence.", r=Request, b=Block) as (t, r, b):
    t.move(block_state[b], B.FREE, B.OWNED)
    t.stay(request_state[r], R.PREFILL, R.DECODE)
    t.guard("needs room", capacity(r) < limit(r))
    t.set(position[b], capacity(r))
    take(t, r, b)
    t.add(free.place, -1)
    t.add(held.place, 1)

with spec.transition("publish", "A full, written block becomes a prefix that others may share.", r=Request, b=Block) as (t, r, b):
    t.move(block_state[b], B.OWNED, B.SHARED)
    t.guard("request runs", running(r))
    t.guard("held", holds(r, b))
    t.guard("full", fill(b) == PAGE)
    t.guard("written", position(b) + PAGE <= computed(r))

with spec.transition("release_owned", "No step in flight has the request: its private block is free at once.", r=Request, b=Block) as (t, r, b):
    t.move(block_state[b], B.OWNED, B.FREE)
    give_back(t, r, b)
    t.guard("not in flight", last_step(r) <= landed())
    t.set(fill[b], 0)
    t.add(free.place, 1)
    t.add(held.place, -1)

with spec.transition("release_to_limbo", "A step in flight may touch the private block: it waits in limbo.", r=Request, b=Block) as (t, r, b):
    t.move(block_state[b], B.OWNED, B.LIMBO)
    give_back(t, r, b)
    t.guard("in flight", landed() < last_step(r))
    t.set(stamp[b], last_step(r))

with spec.transition("release_shared", "Others still hold the prefix block.", r=Request, b=Block) as (t, r, b):
    t.stay(block_state[b], B.SHARED)
    give_back(t, r, b)
    t.guard("others hold it", 1 < refs(b))
    t.set(stamp[b], maximum(stamp(b), last_step(r)))

with spec.transition("release_to_cache", "The last holder lets go: the prefix block stays in the cache.", r=Request, b=Block) as (t, r, b):
    t.move(block_state[b], B.SHARED, B.CACHED)
    give_back(t, r, b)
    t.guard("last holder", refs(b) == 1)
    t.set(stamp[b], maximum(stamp(b), last_step(r)))
    t.add(cached.place, 1)
    t.add(held.place, -1)

with spec.transition("reap", "The last step that could touch a released block has landed.", b=Block) as (t, b):
    t.move(block_state[b], B.LIMBO, B.FREE)
    t.guard("not in flight", stamp(b) <= landed())
    t.set(fill[b], 0)
    t.add(free.place, 1)
    t.add(held.place, -1)

with spec.transition("evict", "A cached block makes room.", b=Block) as (t, b):
    t.move(block_state[b], B.CACHED, B.FREE)
    t.guard("not in flight", stamp(b) <= landed())
    t.set(fill[b], 0)
    t.add(free.place, 1)
    t.add(cached.place, -1)

spec.choice(
    "releasing a held block", "release_owned", "release_to_limbo", "release_shared", "release_to_cache",
    when=lambda r, b: leaving(r) & holds(r, b), r=Request, b=Block,
)  # fmt: skip
