"""Facts of every reachable state that the proofs of the properties need; proved in the same way."""

from ..expressions import Expr
from .vocabulary import *


@spec.lemma()
def steps_are_numbered_in_order() -> Expr:
    """At most one step is being planned; steps land in the order of their numbers."""
    return (landed() <= launched()) & (launched() <= opened()) & (opened() <= launched() + 1)


@spec.lemma(s=Step)
def live_steps_are_numbered_after_the_landed_ones(s: Expr) -> Expr:
    """A step that has not landed has a number between the landed and the newest."""
    return (step_state(s) != S.IDLE) >> ((landed() < number(s)) & (number(s) <= opened()))


@spec.lemma(s=Step)
def launched_steps_have_launched_numbers(s: Expr) -> Expr:
    """A step on or back from the device has a number that was launched."""
    return step_state(s).isin(S.INFLIGHT, S.DONE) >> (number(s) <= launched())


@spec.lemma(s=Step)
def the_planned_step_is_the_newest(s: Expr) -> Expr:
    """The step being planned follows the last one launched."""
    return (step_state(s) == S.PLANNED) >> (number(s) == launched() + 1)


@spec.lemma(s=Step)
def the_done_step_is_the_oldest(s: Expr) -> Expr:
    """Only the oldest step in flight can be done."""
    return (step_state(s) == S.DONE) >> (number(s) == landed() + 1)


@spec.lemma(s=Step, z=Step)
def step_numbers_are_unique(s: Expr, z: Expr) -> Expr:
    """Two steps that have not landed have different numbers."""
    return ((step_state(s) != S.IDLE) & (step_state(z) != S.IDLE) & (number(s) == number(z))) >> (s == z)


@spec.lemma(s=Step)
def idle_step_is_empty(s: Expr) -> Expr:
    """An unused step record has no rows."""
    return (step_state(s) == S.IDLE) >> (rows(s) == 0)


@spec.lemma(r=Request)
def last_step_exists(r: Expr) -> Expr:
    """The last step of a request is one that exists."""
    return (last_step(r) >= 0) & (last_step(r) <= opened())


@spec.lemma(s=Step, r=Request)
def last_step_is_the_last(s: Expr, r: Expr) -> Expr:
    """No step with a row of the request is newer than its last step."""
    return in_step(s, r) >> (number(s) <= last_step(r))


@spec.lemma(s=Step, r=Request, b=Block)
def reads_belong_to_a_row(s: Expr, r: Expr, b: Expr) -> Expr:
    """A step reads only for requests that have a row in it."""
    return reads(s, r, b) >> in_step(s, r)


@spec.lemma(s=Step, r=Request, b=Block)
def writes_are_reads(s: Expr, r: Expr, b: Expr) -> Expr:
    """A block that a step writes counts as touched by it."""
    return writes(s, r, b) >> reads(s, r, b)


@spec.lemma(s=Step, r=Request, b=Block)
def reads_are_held_or_stamped(s: Expr, r: Expr, b: Expr) -> Expr:
    """Whoever may still read a block holds it, or gave it back with a stamp that covers the step."""
    return reads(s, r, b) >> (holds(r, b) | (number(s) <= stamp(b)))


@spec.lemma(b=Block)
def owned_and_free_blocks_carry_an_old_stamp(b: Expr) -> Expr:
    """When a block is given out anew, all steps that touched it before have landed."""
    return block_state(b).isin(B.OWNED, B.FREE) >> (stamp(b) <= landed())


@spec.lemma(s=Step, r=Request, b=Block)
def writes_are_ahead_of_what_is_computed(s: Expr, r: Expr, b: Expr) -> Expr:
    """A block that a step writes ends after the start of the row."""
    return (writes(s, r, b) & live(r)) >> (row_start(s, r) < position(b) + PAGE)


@spec.lemma(s=Step, r=Request)
def rows_start_after_what_is_computed(s: Expr, r: Expr) -> Expr:
    """A row lies between the computed and the planned tokens."""
    return (in_step(s, r) & live(r)) >> (
        (computed(r) <= row_start(s, r)) & (row_start(s, r) + row_tokens(s, r) <= planned(r))
    )


@spec.lemma(s=Step, z=Step, r=Request)
def rows_follow_each_other(s: Expr, z: Expr, r: Expr) -> Expr:
    """The rows of a request in different steps do not overlap and are in the steps' order."""
    return (in_step(s, r) & in_step(z, r) & live(r) & (number(s) < number(z))) >> (
        row_start(s, r) + row_tokens(s, r) <= row_start(z, r)
    )


@spec.lemma(s=Step, r=Request)
def the_open_row_ends_at_the_plan(s: Expr, r: Expr) -> Expr:
    """The row in the step being planned ends where planning has got to."""
    return (in_step(s, r) & live(r) & (step_state(s) == S.PLANNED)) >> (
        row_start(s, r) + row_tokens(s, r) == planned(r)
    )


@spec.lemma(s=Step, r=Request)
def empty_row_samples_nothing(s: Expr, r: Expr) -> Expr:
    """Only a row with tokens ends in a sampled one."""
    return (row_tokens(s, r) == 0) >> ~row_samples(s, r)


@spec.lemma(s=Step, r=Request)
def rows_are_clean(s: Expr, r: Expr) -> Expr:
    """Without a row there are no row tokens."""
    return in_step(s, r) | ((row_tokens(s, r) == 0) & ~row_samples(s, r))


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
def prefill_has_tokens_left(r: Expr) -> Expr:
    """A request in prefill has known tokens to plan and samples nothing."""
    return (request_state(r) == R.PREFILL) >> ((planned(r) < known(r)) & (sampling(r) == 0))


@spec.lemma(r=Request)
def output_left_before_decode(r: Expr) -> Expr:
    """A request that still has to prefill may generate at least one more token."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.RETRACTING) >> (known(r) < limit(r))


@spec.lemma(r=Request)
def absent_record_is_clean(r: Expr) -> Expr:
    """An unused record has planned and computed nothing."""
    return absent(r) >> ((planned(r) == 0) & (computed(r) == 0))


@spec.lemma(r=Request)
def waiting_request_has_only_a_prefix(r: Expr) -> Expr:
    """A waiting request has exactly the tokens of its matched blocks, and is in no step."""
    return (request_state(r) == R.WAITING) >> (
        (planned(r) == computed(r)) & (planned(r) == capacity(r)) & (planned(r) < known(r)) & (pending(r) == 0)
    )


@spec.lemma(r=Request)
def retracting_request_is_in_no_step(r: Expr) -> Expr:
    """A request is retracted only when no step has a row of it."""
    return request_state(r).isin(R.RETRACTING, R.ABSENT) >> (pending(r) == 0)


@spec.lemma(r=Request)
def a_request_has_a_prompt_and_room(r: Expr) -> Expr:
    """Every request has at least one prompt token and may generate at least one."""
    return (~absent(r)) >> ((prompt(r) >= 1) & (prompt(r) < limit(r)) & (prompt(r) <= known(r)))


@spec.lemma(r=Request)
def arrivals_are_numbered(r: Expr) -> Expr:
    """Arrival numbers are given in increasing order."""
    return (arrival(r) >= 0) & (arrival(r) <= newest_arrival())
