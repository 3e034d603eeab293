"""Liveness, continued: the oldest request runs and has no room for its next token, so somebody makes room.

Whoever holds blocks gives way, the youngest first. When nobody else holds any, some block is in nobody's table: of
these the one farthest from the start of its text is a leaf of the prefix tree, and becomes free when nothing touches
it.
"""

from ..language.expressions import Expr, after, if_else, one_if, taken
from ..language.progress import Progress
from ..language.ranking import Stage, stage
from ..machines.prefix_tree import children, parents
from ..machines.vocabulary import *
from .liveness import RELEASES, between_steps, pipeline, the_oldest_request


@stage(the_oldest_request)
def it_needs_memory(x: Stage, r: Expr) -> None:
    """It gets a block."""
    x.when(between_steps(r) & (known(r) < limit(r)) & (planned(r) == end_of_table(r)))
    x.rank(table_entries(), spare_pages())
    x.contract(
        "nobody else takes blocks",
        "While the oldest request needs memory, no other request allocates or matches a block.",
        (after(table_entries()) <= table_entries()) | (blocks(r) < after(blocks(r))),
    )
    x.contract(
        "nothing is fetched",
        "While the oldest request needs memory, no free block is filled from a host page.",
        ~taken("fetch"),
    )
    x.contract(
        "no host page is dropped",
        "While the oldest request needs memory, cached blocks are spilled only to host pages that are empty already.",
        (after(spare_pages()) <= spare_pages()) | taken("spill_failed"),
    )


def gone_with_blocks(v: Expr) -> Expr:
    """The request leaves and still holds blocks."""
    return leaving(v) & (blocks(v) >= 1)


@stage(it_needs_memory, v=(Request, lambda p, r: p.some(Request, gone_with_blocks)))
def somebody_leaves(x: Stage, r: Expr, v: Expr) -> None:
    """A request that finished, was aborted or was retracted gives a block back."""
    x.when(gone_with_blocks(v))
    for release in RELEASES:
        x.helpful(release, v, x.cover.one_of(blocks, v))


@stage(it_needs_memory, v=(Request, lambda p, r: p.farthest(table_entries, arrival)))
def the_youngest_holder_gives_way(x: Stage, r: Expr, v: Expr) -> None:
    """The youngest request that holds blocks is retracted, or finishes, and gives them back."""
    x.when((v != r) & (blocks(v) >= 1))
    x.for_all(Request, lambda q: (blocks(q) >= 1) >> (arrival(q) <= arrival(v)))
    x.rank(one_if(~leaving(v)), if_else(leaving(v), 0, pending(v)))
    x.contract(
        "who has to give way gets no row",
        "While the oldest request needs memory, the youngest that holds blocks joins no further step.",
        after(pending(v)) <= pending(v),
    )


@stage(the_youngest_holder_gives_way)
def it_is_leaving(x: Stage, r: Expr, v: Expr) -> None:
    """It gives a block back."""
    x.when(leaving(v))
    for release in RELEASES:
        x.helpful(release, v, x.cover.one_of(blocks, v))


@stage(the_youngest_holder_gives_way)
def it_is_drained(x: Stage, r: Expr, v: Expr) -> None:
    """It is retracted, or finishes if it has all its output."""
    x.when(live(v) & (pending(v) == 0))
    x.helpful("retract", v, r)
    x.helpful("finish", v)


@stage(the_youngest_holder_gives_way, s=(Step, lambda p, r, v: p.one_of(pending, v)))
def it_is_in_flight(x: Stage, r: Expr, v: Expr, s: Expr) -> None:
    """Its row lands."""
    x.when(live(v) & in_step(s, v))
    x.rank(number(s) - landed())


pipeline(it_is_in_flight)


def an_idle_leaf(p: Progress, r: Expr) -> Expr:
    """Of the blocks in no table the one farthest from the start of its text."""
    found = p.farthest(idle_room, position)
    p.one_of(refs, p.one_of(children, found))  # a block that continues it is in no table, or somebody holds it
    p.one_of(refs, p.one_more(held_room(), capacity(r)))  # if all blocks are in tables, somebody else holds one
    return found


@stage(it_needs_memory, b=(Block, an_idle_leaf))
def a_block_becomes_free(x: Stage, r: Expr, b: Expr) -> None:
    """A block that nobody holds and no other continues becomes free, and is the oldest request's."""
    x.when(idle(b) & (children(b) == 0))
    waits = if_else(block_state(b) == B.FETCHING, 2, 1)
    steps = if_else(landed() < stamp(b), stamp(b) - landed(), 0)
    x.rank(if_else(block_state(b) == B.FREE, 0, waits), copies(b), steps)


@stage(a_block_becomes_free)
def it_is_free(x: Stage, r: Expr, b: Expr) -> None:
    """The oldest request takes it."""
    x.when(block_state(b) == B.FREE)
    x.helpful("allocate", r, b)


@stage(a_block_becomes_free, c=(Copy, lambda p, r, b: p.one_of(copies, b)))
def a_copy_touches_it(x: Stage, r: Expr, b: Expr, c: Expr) -> None:
    """The copy ends."""
    x.when(block_of(c, b))
    x.rank(one_if(copying(c)))
    h, q = x.cover.one_of(copy_hosts, c), x.cover.one_of(copy_requests, c)
    x.helpful("copy_done", c)
    x.helpful("spill_done", c, b, h)
    x.helpful("spill_failed", c, b, h)
    x.helpful("fetch_done", c, b, h)
    x.helpful("fetch_failed", c, b, h, x.cover.one_of(parents, b))
    x.helpful("send_done", c, b)
    for end in ("receive_done", "receive_failed", "receive_dropped"):
        x.helpful(end, c, q, b)


@stage(a_block_becomes_free)
def a_step_may_touch_it(x: Stage, r: Expr, b: Expr) -> None:
    """The last step that may touch it lands."""
    x.when(block_state(b).isin(B.CACHED, B.LIMBO) & (landed() < stamp(b)))


pipeline(a_step_may_touch_it)


@stage(a_block_becomes_free)
def nothing_touches_it(x: Stage, r: Expr, b: Expr) -> None:
    """It is evicted from the cache, or reaped."""
    x.when(block_state(b).isin(B.CACHED, B.LIMBO) & (copies(b) == 0) & (stamp(b) <= landed()))
    x.helpful("evict", b, x.cover.one_of(parents, b))
    x.helpful("reap", b)
