"""Facts of every reachable state that the proofs of the properties need; proved in the same way."""

from ..expressions import Expr
from .vocabulary import *


@spec.lemma(s=Step)
def the_done_step_is_the_oldest(s: Expr) -> Expr:
    """Only the oldest step in flight can be done."""
    return (step_state(s) == S.DONE) >> (number(s) == landed() + 1)


@spec.lemma(b=Block)
def owned_and_free_blocks_carry_an_old_stamp(b: Expr) -> Expr:
    """When a block is given out anew, all steps that touched it before have landed."""
    return block_state(b).isin(B.OWNED, B.FREE) >> (stamp(b) <= landed())


@spec.lemma(s=Step, r=Request, b=Block)
def writes_are_ahead_of_what_is_computed(s: Expr, r: Expr, b: Expr) -> Expr:
    """A block that a step writes ends after the start of the row."""
    return (writes(s, r, b) & live(r)) >> (row_start(s, r) < position(b) + PAGE)


@spec.lemma(s=Step, r=Request)
def empty_row_samples_nothing(s: Expr, r: Expr) -> Expr:
    """Only a row with tokens ends in a sampled one."""
    return (row_tokens(s, r) == 0) >> ~row_samples(s, r)


@spec.lemma(s=Step, r=Request)
def row_tokens_are_not_negative(s: Expr, r: Expr) -> Expr:
    """A row has no negative number of tokens."""
    return row_tokens(s, r) >= 0


@spec.lemma(b=Block)
def fill_is_within_the_page(b: Expr) -> Expr:
    """A block holds between none and PAGE tokens."""
    return (fill(b) >= 0) & (fill(b) <= PAGE)


@spec.lemma(r=Request, b=Block)
def blocks_lie_within_the_capacity(r: Expr, b: Expr) -> Expr:
    """A held block's tokens lie below the request's capacity."""
    return (live(r) & holds(r, b)) >> (position(b) + PAGE <= capacity(r))


@spec.lemma(r=Request)
def retracting_request_is_in_no_step(r: Expr) -> Expr:
    """A request is retracted only when no step has a row of it."""
    return request_state(r).isin(R.RETRACTING, R.ABSENT) >> (pending(r) == 0)
