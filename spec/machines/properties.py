"""What holds in every reachable state: the properties that users rely on, P1 to P14, each explained by its sentence."""

from ..expressions import Expr, after, taken
from .vocabulary import *

# P1: no block is ever lost.


@spec.safety("P1", b=Block)
def owned_block_has_its_owner(b: Expr) -> Expr:
    """A private block is held by exactly one request, so it can always be given back."""
    return (block_state(b) == B.OWNED) >> (refs(b) == 1)


@spec.safety("P1", b=Block)
def shared_block_has_a_holder(b: Expr) -> Expr:
    """A shared block has at least one holder, so it can always be given back."""
    return (block_state(b) == B.SHARED) >> (refs(b) >= 1)


@spec.safety("P1", b=Block)
def limbo_ends(b: Expr) -> Expr:
    """A block in limbo waits for a step that exists, so it is always reaped."""
    return stamp(b) <= opened()


@spec.safety("P1", r=Request)
def dead_request_holds_nothing(r: Expr) -> Expr:
    """A request that is over holds no block."""
    return request_state(r).isin(R.ABSENT, R.FINISHED) >> (blocks(r) == 0)


# P2: one writer, honest reference counts (the counts themselves are the obligations named "count ...").


@spec.safety("P2", r=Request, q=Request, b=Block)
def exclusive_owner(r: Expr, q: Expr, b: Expr) -> Expr:
    """Two requests never hold the same private block."""
    return ((block_state(b) == B.OWNED) & holds(r, b) & holds(q, b)) >> (r == q)


@spec.safety("P2", r=Request, b=Block, c=Block)
def one_block_for_each_position(r: Expr, b: Expr, c: Expr) -> Expr:
    """A request's blocks never cover the same token twice."""
    return (live(r) & holds(r, b) & holds(r, c) & (b != c)) >> (
        (position(b) + PAGE <= position(c)) | (position(c) + PAGE <= position(b))
    )


# P3: nothing is freed or handed on while a step in flight may touch it.


@spec.safety("P3", s=Step, r=Request, b=Block)
def no_free_block_in_flight(s: Expr, r: Expr, b: Expr) -> Expr:
    """A block that a step in flight may read is never free."""
    return reads(s, r, b) >> (block_state(b) != B.FREE)


@spec.safety("P3", s=Step, r=Request, q=Request, b=Block)
def no_reuse_in_flight(s: Expr, r: Expr, q: Expr, b: Expr) -> Expr:
    """A block that a step in flight reads for one request is never given to another to write."""
    return (reads(s, r, b) & (block_state(b) == B.OWNED) & holds(q, b)) >> (r == q)


# P4: shared and cached blocks are complete and read-only.


@spec.safety("P4", s=Step, r=Request, b=Block)
def no_write_to_a_shared_block(s: Expr, r: Expr, b: Expr) -> Expr:
    """A step never writes a block that is shared or cached."""
    return writes(s, r, b) >> block_state(b).isin(B.OWNED, B.LIMBO)


@spec.safety("P4", b=Block)
def published_block_is_full(b: Expr) -> Expr:
    """A block that others may match holds a full page of tokens."""
    return block_state(b).isin(B.SHARED, B.CACHED) >> (fill(b) == PAGE)


# P5: conservation.


@spec.safety("P5")
def conservation() -> Expr:
    """Free, held and cached blocks always add up to the pool."""
    return free() + held() + cached() == BLOCKS


@spec.safety("P5", b=Block)
def free_block_is_clean(b: Expr) -> Expr:
    """A free block holds no tokens."""
    return (block_state(b) == B.FREE) >> (fill(b) == 0)


# P6: never run without memory, never on a token that nobody computed.


@spec.safety("P6", r=Request)
def enough_blocks(r: Expr) -> Expr:
    """Every token that is planned has a place in a block of the request."""
    return live(r) >> (planned(r) <= capacity(r))


@spec.safety("P6", r=Request)
def every_token_is_stored(r: Expr) -> Expr:
    """The tokens in a request's blocks are exactly the tokens planned so far."""
    return live(r) >> (stored(r) == planned(r))


@spec.safety("P6", r=Request, b=Block)
def only_the_tail_is_partial(r: Expr, b: Expr) -> Expr:
    """Every block before the tail of a request is full, so attention never reads a hole."""
    return (live(r) & holds(r, b) & (position(b) + PAGE <= planned(r))) >> (fill(b) == PAGE)


@spec.safety("P6", r=Request, b=Block)
def nothing_beyond_the_plan(r: Expr, b: Expr) -> Expr:
    """No block holds a token beyond those planned."""
    return (live(r) & holds(r, b)) >> ((position(b) + fill(b) <= planned(r)) | (fill(b) == 0))


@spec.safety("P6", r=Request)
def tokens_accounted_for(r: Expr) -> Expr:
    """Every planned token is either computed or in a step in flight."""
    return live(r) >> (planned(r) == computed(r) + flying(r))


@spec.safety("P6", r=Request)
def no_token_from_nowhere(r: Expr) -> Expr:
    """The input of the next decode step is known, or is being sampled by a step in flight."""
    return (request_state(r) == R.DECODE) >> (planned(r) + 1 == known(r) + sampling(r))


@spec.safety("P6", r=Request)
def no_overshoot(r: Expr) -> Expr:
    """A request never gets more tokens than it asked for."""
    return (~absent(r)) >> ((known(r) <= limit(r)) & (planned(r) < limit(r)))


# P7: no double free, no use after free.


@spec.safety("P7", r=Request, b=Block)
def no_use_after_free(r: Expr, b: Expr) -> Expr:
    """A block in a block table is never free, cached or in limbo."""
    return holds(r, b) >> block_state(b).isin(B.OWNED, B.SHARED)


@spec.safety("P7", b=Block)
def no_double_free(b: Expr) -> Expr:
    """A block that was released has no holder left who could release it again."""
    return idle(b) >> (refs(b) == 0)


# P9: the same, in terms of what the device really does.


@spec.safety("P9", s=Step, r=Request, b=Block)
def device_reads_no_free_block(s: Expr, r: Expr, b: Expr) -> Expr:
    """While the device works on a step, no block of it is free."""
    return (executing(s) & reads(s, r, b)) >> block_state(b).isin(B.OWNED, B.SHARED, B.CACHED, B.LIMBO)


@spec.safety("P9", s=Step)
def device_works_on_launched_steps(s: Expr) -> Expr:
    """The scheduler never treats a step as done while the device works on it."""
    return executing(s) >> (step_state(s) == S.INFLIGHT)


@spec.action("P9", s=Step)
def only_the_device_ends_a_step(s: Expr) -> Expr:
    """No decision of the scheduler can make a step count as executed."""
    return (executing(s) & ~after(executing(s))) >> taken("device_done")


# P10: abort is possible at any moment, and then everything comes back.


@spec.choice("P10", "abort", r=Request)
def abort_is_possible_while_live(r: Expr) -> Expr:
    """A request can be aborted at any moment of its life."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE, R.RETRACTING)


@spec.choice("P10", "release_owned", "release_to_limbo", "release_shared", "release_to_cache", r=Request, b=Block)
def every_block_of_a_leaving_request_is_released(r: Expr, b: Expr) -> Expr:
    """For every block of a request that finished, was aborted or is retracted, exactly one release is possible."""
    return leaving(r) & holds(r, b)


@spec.choice("P10", "close", r=Request)
def an_empty_leaving_request_is_closed(r: Expr) -> Expr:
    """A request that has given back everything can be closed."""
    return (request_state(r) == R.RELEASING) & (blocks(r) == 0)


@spec.choice("P10", "reap", b=Block)
def limbo_is_reaped(b: Expr) -> Expr:
    """A block in limbo is free as soon as its last step has landed."""
    return (block_state(b) == B.LIMBO) & (stamp(b) <= landed())


@spec.action("P10", r=Request)
def leaving_only_shrinks(r: Expr) -> Expr:
    """A request that gives its blocks back never gets new ones."""
    return (leaving(r) & ~taken("recycle")) >> (after(blocks(r)) <= blocks(r))


@spec.action("P10", r=Request)
def aborted_stays_aborted(r: Expr) -> Expr:
    """A finished or aborted request never runs again."""
    return (request_state(r) == R.RELEASING) >> after(request_state(r)).isin(R.RELEASING, R.FINISHED)


# P11: results reach only the request they were computed for.


@spec.safety("P11", s=Step, r=Request)
def no_stale_row(s: Expr, r: Expr) -> Expr:
    """A step mentions only requests that run or are on their way out, never a recycled record."""
    return in_step(s, r) >> request_state(r).isin(R.PREFILL, R.DECODE, R.RELEASING, R.FINISHED)


@spec.action("P11", r=Request)
def output_comes_from_a_done_step(r: Expr) -> Expr:
    """Output tokens come from landing a step and from nothing else."""
    return (live(r) & ~(after(known(r)) == known(r))) >> taken("land_row")


@spec.action("P11", r=Request)
def only_executed_tokens_count(r: Expr) -> Expr:
    """A token counts as computed only when its step has been executed and landed."""
    return (running(r) & (computed(r) < after(computed(r)))) >> taken("land_row")


@spec.safety("P11", s=Step, z=Step)
def finished_in_order(s: Expr, z: Expr) -> Expr:
    """Results are landed strictly in the order in which the steps were planned."""
    return ((step_state(s) != S.IDLE) & (step_state(z) == S.DONE)) >> (number(z) <= number(s))


# P14: determinism.


@spec.choice("P14", "land_row", "drop_row", s=Step, r=Request)
def a_done_row_is_landed_or_dropped(s: Expr, r: Expr) -> Expr:
    """Every row of a done step is landed if its request runs and dropped if it left: never both, never neither."""
    return (step_state(s) == S.DONE) & in_step(s, r)


@spec.safety("P14", r=Request, q=Request)
def arrival_numbers_are_unique(r: Expr, q: Expr) -> Expr:
    """First come, first served has no ties."""
    return (~absent(r) & ~absent(q) & (arrival(r) == arrival(q))) >> (r == q)
