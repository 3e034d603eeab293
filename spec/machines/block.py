"""The block machine: match a cached prefix, allocate, publish, release, reap and evict."""

from ..expressions import Expr, maximum
from ..language import Transition
from .vocabulary import *


def take(t: Transition, r: Expr, b: Expr) -> None:
    """Effects: the block enters the request's block table."""
    t.set(holds[r, b], True)
    t.add(refs[b], 1)
    t.add(blocks[r], 1)
    t.add(capacity[r], PAGE)


def give_back(t: Transition, r: Expr, b: Expr) -> None:
    """Guards and effects: the block leaves the block table of a request that gives its blocks back."""
    t.stay(request_state[r], R.RETRACTING, R.RELEASING)
    t.guard("held", holds(r, b))
    t.set(holds[r, b], False)
    t.add(refs[b], -1)
    t.add(blocks[r], -1)
    t.set(capacity[r], capacity(r) - PAGE)
    t.set(stored[r], stored(r) - fill(b))


def match(t: Transition, r: Expr, b: Expr) -> None:
    """Guards and effects: a waiting request takes the next block of its prefix by reference."""
    t.stay(request_state[r], R.WAITING)
    t.guard("next in sequence", position(b) == planned(r))
    t.guard("not held yet", ~holds(r, b))
    t.guard("last token recomputed", planned(r) + PAGE < known(r))
    take(t, r, b)
    t.add(stored[r], PAGE)
    t.add(planned[r], PAGE)
    t.add(computed[r], PAGE)


@spec.transition(r=Request, b=Block)
def match_shared(t: Transition, r: Expr, b: Expr) -> None:
    """A prefix block that others hold is shared."""
    t.stay(block_state[b], B.SHARED)
    match(t, r, b)


@spec.transition(r=Request, b=Block)
def match_cached(t: Transition, r: Expr, b: Expr) -> None:
    """A prefix block that nobody holds is taken out of the cache."""
    t.move(block_state[b], B.CACHED, B.SHARED)
    match(t, r, b)
    t.add(cached.place, -1)
    t.add(held.place, 1)


@spec.transition(r=Request, b=Block)
def allocate(t: Transition, r: Expr, b: Expr) -> None:
    """A running request gets a free block at the end of its sequence."""
    t.move(block_state[b], B.FREE, B.OWNED)
    t.stay(request_state[r], R.PREFILL, R.DECODE)
    t.guard("needs room", capacity(r) < limit(r))
    t.set(position[b], capacity(r))
    take(t, r, b)
    t.add(free.place, -1)
    t.add(held.place, 1)


@spec.transition(r=Request, b=Block)
def publish(t: Transition, r: Expr, b: Expr) -> None:
    """A full, written block becomes a prefix that others may share."""
    t.move(block_state[b], B.OWNED, B.SHARED)
    t.guard("request runs", running(r))
    t.guard("held", holds(r, b))
    t.guard("full", fill(b) == PAGE)
    t.guard("written", position(b) + PAGE <= computed(r))


@spec.transition(r=Request, b=Block)
def release_owned(t: Transition, r: Expr, b: Expr) -> None:
    """No step in flight has the request: its private block is free at once."""
    t.move(block_state[b], B.OWNED, B.FREE)
    give_back(t, r, b)
    t.guard("not in flight", last_step(r) <= landed())
    t.set(fill[b], 0)
    t.add(free.place, 1)
    t.add(held.place, -1)


@spec.transition(r=Request, b=Block)
def release_to_limbo(t: Transition, r: Expr, b: Expr) -> None:
    """A step in flight may touch the private block: it waits in limbo."""
    t.move(block_state[b], B.OWNED, B.LIMBO)
    give_back(t, r, b)
    t.guard("in flight", landed() < last_step(r))
    t.set(stamp[b], last_step(r))


@spec.transition(r=Request, b=Block)
def release_shared(t: Transition, r: Expr, b: Expr) -> None:
    """Others still hold the prefix block."""
    t.stay(block_state[b], B.SHARED)
    give_back(t, r, b)
    t.guard("others hold it", refs(b) > 1)
    t.set(stamp[b], maximum(stamp(b), last_step(r)))


@spec.transition(r=Request, b=Block)
def release_to_cache(t: Transition, r: Expr, b: Expr) -> None:
    """The last holder lets go: the prefix block stays in the cache."""
    t.move(block_state[b], B.SHARED, B.CACHED)
    give_back(t, r, b)
    t.guard("last holder", refs(b) == 1)
    t.set(stamp[b], maximum(stamp(b), last_step(r)))
    t.add(cached.place, 1)
    t.add(held.place, -1)


@spec.transition(b=Block)
def reap(t: Transition, b: Expr) -> None:
    """The last step that could touch a released block has landed."""
    t.move(block_state[b], B.LIMBO, B.FREE)
    t.guard("not in flight", stamp(b) <= landed())
    t.set(fill[b], 0)
    t.add(free.place, 1)
    t.add(held.place, -1)


@spec.transition(b=Block)
def evict(t: Transition, b: Expr) -> None:
    """A cached block makes room."""
    t.move(block_state[b], B.CACHED, B.FREE)
    t.guard("not in flight", stamp(b) <= landed())
    t.set(fill[b], 0)
    t.add(free.place, 1)
    t.add(cached.place, -1)
