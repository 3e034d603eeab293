"""What holds in every reachable state of blocks and tokens: P1 to P7, each explained by its sentence."""

from ..language.expressions import Expr, after, lift, taken
from ..machines.prefix_tree import continues
from ..machines.vocabulary import *

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
    """A block that a step in flight may read is never free, nor overwritten by a copy."""
    return reads(s, r, b) >> ~block_state(b).isin(B.FREE, B.FETCHING)


@spec.safety("P3", s=Step, r=Request, q=Request, b=Block)
def no_reuse_in_flight(s: Expr, r: Expr, q: Expr, b: Expr) -> Expr:
    """A block that a step in flight reads for one request is never given to another to write."""
    return (reads(s, r, b) & (block_state(b) == B.OWNED) & holds(q, b)) >> (r == q)


@spec.safety("P3", s=Step, r=Request, b=Block)
def reads_are_held_or_stamped(s: Expr, r: Expr, b: Expr) -> Expr:
    """Whoever may still read a block holds it, or gave it back with a stamp that covers the step."""
    return reads(s, r, b) >> (holds(r, b) | (number(s) <= stamp(b)))


@spec.safety("P3", s=Step, r=Request)
def last_step_is_the_last(s: Expr, r: Expr) -> Expr:
    """No step with a row of the request is newer than its last step."""
    return in_step(s, r) >> (number(s) <= last_step(r))


# P4: shared and cached blocks are complete and read-only.


@spec.safety("P4", s=Step, r=Request, b=Block)
def no_write_to_a_shared_block(s: Expr, r: Expr, b: Expr) -> Expr:
    """A step never writes a block that is shared or cached."""
    return writes(s, r, b) >> block_state(b).isin(B.OWNED, B.LIMBO)


@spec.safety("P4", b=Block)
def shared_block_is_full(b: Expr) -> Expr:
    """A block that several may hold has a full page of tokens."""
    return (block_state(b) == B.SHARED) >> (fill(b) == PAGE)


@spec.safety("P4", b=Block)
def cached_block_has_tokens(b: Expr) -> Expr:
    """A block that others may match has at least one token and at most a page of them."""
    return block_state(b).isin(B.CACHED, B.FETCHING) >> ((fill(b) >= 1) & (fill(b) <= PAGE))


@spec.safety("P4", r=Request, b=Block)
def shared_block_is_computed(r: Expr, b: Expr) -> Expr:
    """A running request has computed, or matched, all of a block that it shares."""
    return (live(r) & holds(r, b) & (block_state(b) == B.SHARED)) >> (position(b) + PAGE <= computed(r))


@spec.choice("P4", "publish", r=Request, b=Block, p=Block, arguments=lambda r, b, p: {"x": lift(1)})
def a_full_block_can_be_published(r: Expr, b: Expr, p: Expr) -> Expr:
    """A private block of a running request, behind a shared one, can be shared as soon as all of it is written."""
    written = (position(b) + PAGE <= computed(r)) & (inbound(r) == 0)
    return (block_state(b) == B.OWNED) & running(r) & holds(r, b) & written & continues(r, b, p)


# P5: conservation.


@spec.safety("P5")
def conservation() -> Expr:
    """Free, held, cached and fetched blocks always add up to the pool."""
    return free() + held() + cached() + fetching() == BLOCKS


@spec.safety("P5")
def conservation_of_room() -> Expr:
    """The room in block tables and the room of all other blocks add up to the pool."""
    return held_room() + idle_room() == ROOM


@spec.safety("P5")
def conservation_of_host_pages() -> Expr:
    """Empty host pages and those in use add up to all of them."""
    return spare_pages() + used_pages() == HOSTS


@spec.safety("P5", b=Block)
def unpublished_block_offers_nothing(b: Expr) -> Expr:
    """Nobody can match a block that is free, private or in limbo."""
    return block_state(b).isin(B.FREE, B.OWNED, B.LIMBO) >> (fill(b) == 0)


# P6: never run without memory, never on a token that nobody computed.


@spec.safety("P6", r=Request)
def enough_blocks(r: Expr) -> Expr:
    """Every token that is planned has a place in a block of the request."""
    return live(r) >> (planned(r) <= end_of_table(r))


@spec.safety("P6", r=Request, b=Block)
def blocks_lie_within_the_table(r: Expr, b: Expr) -> Expr:
    """A request's blocks lie between what was pruned and the end of its block table, so they leave no hole."""
    inside = (pruned(r) <= position(b)) & (position(b) + PAGE <= end_of_table(r))
    return (live(r) & holds(r, b)) >> inside


@spec.safety("P6", r=Request)
def nothing_pruned_that_is_read(r: Expr) -> Expr:
    """What was pruned lies behind the window of every token still to be computed."""
    return live(r) >> ((pruned(r) == 0) | (pruned(r) + WINDOW <= computed(r) + 1))


@spec.safety("P6", r=Request)
def tokens_accounted_for(r: Expr) -> Expr:
    """Every planned token is computed, in a step in flight, or written by a peer."""
    return live(r) >> (planned(r) == computed(r) + flying(r) + arriving(r))


@spec.safety("P6", r=Request)
def no_token_from_nowhere(r: Expr) -> Expr:
    """The input of the next decode step is known, or is being sampled by a step in flight."""
    return (request_state(r) == R.DECODE) >> (planned(r) + 1 == known(r) + sampling(r))


@spec.safety("P6", r=Request)
def no_overshoot(r: Expr) -> Expr:
    """A request never gets more tokens than it asked for."""
    return (~absent(r)) >> ((known(r) <= limit(r)) & (planned(r) < limit(r)))


@spec.safety("P6", r=Request)
def a_request_has_a_prompt_and_room(r: Expr) -> Expr:
    """Every request has at least one prompt token and may generate at least one."""
    return (~absent(r)) >> ((prompt(r) >= 1) & (prompt(r) < limit(r)) & (prompt(r) <= known(r)))


@spec.safety("P6", r=Request)
def output_left_before_decode(r: Expr) -> Expr:
    """A request that still has to prefill may generate at least one more token."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.RETRACTING) >> (known(r) < limit(r))


@spec.safety("P6", r=Request)
def waiting_request_has_only_a_prefix(r: Expr) -> Expr:
    """A waiting request has exactly the tokens of its matched blocks, and nothing in flight."""
    return (request_state(r) == R.WAITING) >> (
        (planned(r) == computed(r)) & (planned(r) < known(r)) & (pending(r) == 0) & (inbound(r) == 0) & (pruned(r) == 0)
    )


@spec.safety("P6", r=Request)
def prefill_has_tokens_left(r: Expr) -> Expr:
    """A request in prefill has known tokens to plan and samples nothing."""
    return (request_state(r) == R.PREFILL) >> ((planned(r) < known(r)) & (sampling(r) == 0))


@spec.safety("P6", r=Request)
def received_before_computed(r: Expr) -> Expr:
    """A request is in no step while peers write its tokens."""
    return (inbound(r) >= 1) >> (pending(r) == 0)


@spec.safety("P6", s=Step, r=Request)
def every_row_has_a_token(s: Expr, r: Expr) -> Expr:
    """A request is in a step only with a token to compute, so every step of a request brings it nearer to its end."""
    return in_step(s, r) >> (row_tokens(s, r) >= 1)


@spec.safety("P6", s=Step, r=Request)
def rows_start_after_what_is_computed(s: Expr, r: Expr) -> Expr:
    """A row lies between the computed and the planned tokens."""
    return (in_step(s, r) & live(r)) >> (
        (computed(r) <= row_start(s, r)) & (row_start(s, r) + row_tokens(s, r) <= planned(r))
    )


@spec.safety("P6", s=Step, z=Step, r=Request)
def rows_follow_each_other(s: Expr, z: Expr, r: Expr) -> Expr:
    """The rows of a request in different steps do not overlap and are in the steps' order."""
    return (in_step(s, r) & in_step(z, r) & live(r) & (number(s) < number(z))) >> (
        row_start(s, r) + row_tokens(s, r) <= row_start(z, r)
    )


@spec.safety("P6", s=Step, r=Request)
def the_open_row_ends_at_the_plan(s: Expr, r: Expr) -> Expr:
    """The row in the step being planned ends where planning has got to."""
    return (in_step(s, r) & live(r) & (step_state(s) == S.PLANNED)) >> (
        row_start(s, r) + row_tokens(s, r) == planned(r)
    )


@spec.safety("P6", r=Request)
def no_more_blocks_than_needed(r: Expr) -> Expr:
    """A running request never holds a whole block more than it can ever fill."""
    return live(r) >> (end_of_table(r) + 1 < limit(r) + PAGE)


@spec.safety("P6", s=Step, r=Request, b=Block)
def a_step_counts_as_reading_what_attention_reads(s: Expr, r: Expr, b: Expr) -> Expr:
    """Every block with a token that a row attends to is known as read by the step."""
    attended = position(b) < row_start(s, r) + row_tokens(s, r)
    return (in_step(s, r) & live(r) & holds(r, b) & attended) >> reads(s, r, b)


@spec.safety("P6", s=Step, r=Request, b=Block)
def a_step_counts_as_writing_what_it_computes(s: Expr, r: Expr, b: Expr) -> Expr:
    """Every block that gets a token of a row is known as written by the step."""
    computed_here = (position(b) < row_start(s, r) + row_tokens(s, r)) & (row_start(s, r) < position(b) + PAGE)
    return (in_step(s, r) & live(r) & holds(r, b) & computed_here) >> writes(s, r, b)


@spec.action("P6", r=Request)
def a_finished_request_has_output(r: Expr) -> Expr:
    """Only a decoding request with at least one output token finishes."""
    finishes = taken("finish") & (after(request_state(r)) != request_state(r))
    return finishes >> ((request_state(r) == R.DECODE) & (prompt(r) < known(r)))


@spec.action("P6", s=Step, r=Request)
def only_running_requests_get_tokens(s: Expr, r: Expr) -> Expr:
    """Tokens are planned for running requests only, into the step that is being planned."""
    grows = row_tokens(s, r) < after(row_tokens(s, r))
    return grows >> (running(r) & (step_state(s) == S.PLANNED))


# P7: no double free, no use after free.


@spec.safety("P7", r=Request, b=Block)
def no_use_after_free(r: Expr, b: Expr) -> Expr:
    """A block in a block table is never free, cached or in limbo."""
    return holds(r, b) >> block_state(b).isin(B.OWNED, B.SHARED)


@spec.safety("P7", b=Block)
def no_double_free(b: Expr) -> Expr:
    """A block that was released has no holder left who could release it again."""
    return idle(b) >> (refs(b) == 0)
