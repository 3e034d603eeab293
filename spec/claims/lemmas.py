"""Facts of every reachable state that the proofs of the properties need; proved in the same way."""

from ..language.expressions import Expr, one_if
from ..machines.vocabulary import *


@spec.lemma(s=Step)
def the_done_step_is_the_oldest(s: Expr) -> Expr:
    """Only the oldest step in flight can be done."""
    return (step_state(s) == S.DONE) >> (number(s) == landed() + 1)


@spec.lemma(b=Block)
def owned_and_free_blocks_carry_an_old_stamp(b: Expr) -> Expr:
    """When a block is given out anew, all steps that touched it before have landed."""
    return block_state(b).isin(B.OWNED, B.FREE, B.FETCHING) >> (stamp(b) <= landed())


@spec.lemma(s=Step, r=Request, b=Block)
def writes_are_ahead_of_what_is_computed(s: Expr, r: Expr, b: Expr) -> Expr:
    """A block that a step may write is not complete yet."""
    return (writes(s, r, b) & live(r)) >> (computed(r) < position(b) + PAGE)


@spec.lemma(s=Step, r=Request, b=Block)
def incomplete_blocks_up_to_the_row_may_be_written(s: Expr, r: Expr, b: Expr) -> Expr:
    """If drafts before it are rejected, a row writes earlier blocks: all that are not complete count as written."""
    before_its_end = (position(b) < row_start(s, r) + row_tokens(s, r)) & (computed(r) < position(b) + PAGE)
    return (in_step(s, r) & live(r) & holds(r, b) & before_its_end) >> writes(s, r, b)


@spec.lemma(r=Request)
def peers_write_before_decode_only(r: Expr) -> Expr:
    """No peer writes for a request that waits, decodes or does not exist."""
    return request_state(r).isin(R.ABSENT, R.WAITING, R.DECODE) >> (inbound(r) == 0)


@spec.lemma(s=Step, r=Request)
def a_row_yields_at_most_its_tokens(s: Expr, r: Expr) -> Expr:
    """A row yields no more output tokens than it computes tokens."""
    return (row_outputs(s, r) >= 0) & (row_outputs(s, r) <= row_tokens(s, r))


@spec.lemma(r=Request)
def retracting_request_is_in_no_step(r: Expr) -> Expr:
    """A request is retracted only when no step has a row of it."""
    return request_state(r).isin(R.RETRACTING, R.ABSENT) >> (pending(r) == 0)


@spec.lemma(c=Copy, b=Block)
def unused_copy_has_no_block(c: Expr, b: Expr) -> Expr:
    """Only a copy that is under way has a block."""
    return block_of(c, b) >> (copy_state(c) != C.IDLE)


@spec.lemma(c=Copy, h=Host)
def only_host_copies_have_a_host_page(c: Expr, h: Expr) -> Expr:
    """Only a spill or a fetch has a host page."""
    return host_of(c, h) >> copy_state(c).isin(C.SPILLING, C.FETCHING)


@spec.lemma(r=Request)
def computed_and_pruned_are_not_negative(r: Expr) -> Expr:
    """Nothing less than nothing was computed or pruned."""
    return (computed(r) >= 0) & (pruned(r) >= 0)


@spec.lemma(b=Block)
def blocks_lie_behind_the_start(b: Expr) -> Expr:
    """No block lies in front of the start of a text."""
    return position(b) >= 0


@spec.lemma(h=Host)
def host_pages_lie_behind_the_start(h: Expr) -> Expr:
    """No host page lies in front of the start of a text."""
    return host_position(h) >= 0


@spec.lemma()
def live_steps_are_those_between() -> Expr:
    """As many steps are live as were opened and have not landed."""
    return (live_steps() == opened() - landed()) & (landed() >= 0)


@spec.lemma(s=Step, r=Request)
def the_last_step_of_a_request_has_its_row(s: Expr, r: Expr) -> Expr:
    """Until a step is done, it has a row of whoever it is the last step of."""
    return (step_state(s).isin(S.PLANNED, S.INFLIGHT) & (last_step(r) == number(s))) >> in_step(s, r)


@spec.lemma(s=Step, b=Block)
def a_planned_step_that_stamps_a_block_has_rows(s: Expr, b: Expr) -> Expr:
    """No block waits for a step without rows."""
    return ((step_state(s) == S.PLANNED) & (stamp(b) == number(s))) >> (rows(s) >= 1)


@spec.lemma(c=Copy)
def copies_have_their_host_page_or_request(c: Expr) -> Expr:
    """A spill or fetch has one host page, a receive one request, and no other copy has any."""
    host = copy_state(c).isin(C.SPILLING, C.FETCHING)
    peer = copy_state(c) == C.RECEIVING
    return (copy_hosts(c) == one_if(host)) & (copy_requests(c) == one_if(peer))
