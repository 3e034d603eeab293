"""The block machine: match a cached prefix, allocate, publish, release, keep a partial tail, reap and evict."""

from ..language.expressions import Expr, if_else, maximum
from ..language.spec import Number, Transition
from .bounds import NAME
from .prefix_tree import children, content, offer, prune_leaf, recognise, text, unhang
from .vocabulary import *

GIVEN = Number(1, kind=NAME, tried=lambda b: (position(b), position(b) + 1))
SOUGHT = Number(1, kind=NAME, tried=lambda b: (position(b), position(b) + 2))
"""Names of prefixes. In searches all texts begin with the same page, named 1 (0 names nothing); from then on there are
two ways to go on. Whoever looks for a prefix may also look for one that nobody has published.
"""


def drop(t: Transition, r: Expr, b: Expr) -> None:
    """Effects: the block leaves the request's block table."""
    t.leave(holds[r, b])
    t.set(text[r, b], 0)  # the block says nothing of the request any more


@spec.definition(r=Request, b=Block)
def behind_the_window(r: Expr, b: Expr) -> Expr:
    """No token will read the block, the request's first, and no block of the request continues it.

    A running request keeps what others continue: blocks of its own hang there, and could not be matched without it.
    """
    unread = (position(b) == pruned(r)) & (position(b) + PAGE + WINDOW <= computed(r) + 1)
    return running(r) & unread & (children(b) == 0)


def give_back(t: Transition, r: Expr, b: Expr) -> None:
    """Guards and effects: a leaving request lets go of a block, a running one of its first if no token will read it."""
    t.guard("held", holds(r, b))
    t.guard("leaves, or behind the window", leaving(r) | behind_the_window(r, b))
    t.set(pruned[r], if_else(running(r), pruned(r) + PAGE, pruned(r)))
    drop(t, r, b)


def quiet(t: Transition, b: Expr) -> None:
    """Guards: no step in flight and no copy touches the block for a former holder."""
    t.guard("not in flight", stamp(b) <= landed())
    t.guard("not being copied", copies(b) == 0)


def match(t: Transition, r: Expr, b: Expr, p: Expr, x: Expr, tokens: Expr) -> None:
    """Guards and effects: a waiting request takes the next block of its prefix, which has so many tokens."""
    t.stay(request_state[r], R.WAITING)
    t.guard("next in sequence", position(b) == planned(r))
    t.guard("behind whole blocks", planned(r) == capacity(r))
    t.guard("last token recomputed", planned(r) + tokens < known(r))
    recognise(t, r, b, p, x)
    t.join(holds[r, b])
    t.add(planned[r], tokens)
    t.add(computed[r], tokens)


@spec.transition(r=Request, b=Block, p=Block, x=SOUGHT)
def match_shared(t: Transition, r: Expr, b: Expr, p: Expr, x: Expr) -> None:
    """A prefix block that others hold is shared."""
    t.stay(block_state[b], B.SHARED)
    t.guard("not held yet", ~holds(r, b))
    match(t, r, b, p, x, PAGE)


@spec.transition(r=Request, b=Block, p=Block, x=SOUGHT)
def match_cached(t: Transition, r: Expr, b: Expr, p: Expr, x: Expr) -> None:
    """A whole prefix block that nobody holds is taken out of the cache."""
    t.move(block_state[b], B.CACHED, B.SHARED)
    t.guard("whole", fill(b) == PAGE)
    match(t, r, b, p, x, PAGE)


@spec.transition(r=Request, b=Block, p=Block, x=SOUGHT)
def match_tail(t: Transition, r: Expr, b: Expr, p: Expr, x: Expr) -> None:
    """A partial block at the end of the prefix becomes the request's own, to be written on."""
    t.move(block_state[b], B.CACHED, B.OWNED)
    t.guard("partial", fill(b) < PAGE)
    quiet(t, b)
    match(t, r, b, p, x, fill(b))
    unhang(t, b, p)
    t.set(fill[b], 0)


@spec.transition(r=Request, b=Block)
def allocate(t: Transition, r: Expr, b: Expr) -> None:
    """A running request gets a free block at the end of its sequence."""
    t.move(block_state[b], B.FREE, B.OWNED)
    t.stay(request_state[r], R.PREFILL, R.DECODE)
    t.guard("needs room", end_of_table(r) + 1 < limit(r))
    t.set(position[b], end_of_table(r))
    t.join(holds[r, b])


@spec.transition(r=Request, b=Block, p=Block, x=GIVEN)
def publish(t: Transition, r: Expr, b: Expr, p: Expr, x: Expr) -> None:
    """A full, written block becomes a prefix that others may share."""
    t.move(block_state[b], B.OWNED, B.SHARED)
    t.guard("request runs", running(r))
    t.guard("held", holds(r, b))
    t.guard("written", position(b) + PAGE <= computed(r))
    t.guard("nothing arriving", inbound(r) == 0)
    t.set(fill[b], PAGE)
    offer(t, r, b, p, x)
    t.set(text[r, b], x)


@spec.transition(r=Request, b=Block)
def release_owned(t: Transition, r: Expr, b: Expr) -> None:
    """No step in flight has the request and no copy the block: it is free at once."""
    t.move(block_state[b], B.OWNED, B.FREE)
    give_back(t, r, b)
    t.guard("not in flight", last_step(r) <= landed())
    t.guard("not being copied", copies(b) == 0)
    t.set(content[b], 0)


@spec.transition(r=Request, b=Block)
def release_to_limbo(t: Transition, r: Expr, b: Expr) -> None:
    """A step in flight or a copy may touch the private block: it waits in limbo."""
    t.move(block_state[b], B.OWNED, B.LIMBO)
    give_back(t, r, b)
    t.guard("in flight", (landed() < last_step(r)) | (copies(b) >= 1))
    t.set(stamp[b], last_step(r))
    t.set(content[b], 0)


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


@spec.transition(r=Request, b=Block, p=Block, x=GIVEN)
def keep_tail(t: Transition, r: Expr, b: Expr, p: Expr, x: Expr) -> None:
    """A leaving request's partial block stays in the cache, with the tokens written so far."""
    t.move(block_state[b], B.OWNED, B.CACHED)
    t.stay(request_state[r], R.RETRACTING, R.RELEASING)
    t.guard("held", holds(r, b))
    t.guard("has tokens", position(b) < computed(r))
    t.guard("is the tail", computed(r) <= position(b) + PAGE)
    t.guard("not in flight", last_step(r) <= landed())
    t.guard("nothing arriving", inbound(r) == 0)
    offer(t, r, b, p, x)
    drop(t, r, b)
    t.set(fill[b], computed(r) - position(b))


@spec.transition(b=Block)
def reap(t: Transition, b: Expr) -> None:
    """The last step or copy that could touch a released block has ended."""
    t.move(block_state[b], B.LIMBO, B.FREE)
    quiet(t, b)


@spec.transition(b=Block, p=Block)
def evict(t: Transition, b: Expr, p: Expr) -> None:
    """A cached block that no other continues makes room."""
    t.move(block_state[b], B.CACHED, B.FREE)
    quiet(t, b)
    prune_leaf(t, b, p)
    t.set(fill[b], 0)
    t.set(content[b], 0)
