"""The contract of policies, as far as it holds in every step; what holds only while the oldest request needs something
stands with that situation in liveness.py.

A policy may do what it likes within the guards: no property of safety depends on it. That every accepted request
finishes depends on these clauses, and on helpful transitions being taken at last.
"""

from ..language.expressions import Expr, after, taken
from ..language.ranking import conforming, contract
from ..machines.vocabulary import *


def can_get_a_token(r: Expr) -> Expr:
    """The next token has room, and the request may still have it."""
    return (planned(r) < end_of_table(r)) & (planned(r) + 1 < limit(r))


@contract(spec, s=Step, r=Request)
def a_step_is_launched_with_tokens_in_every_row(s: Expr, r: Expr) -> Expr:
    """A step is launched only when every running request in it has a token to compute."""
    launched_now = taken("launch") & (step_state(s) == S.PLANNED) & (after(step_state(s)) == S.INFLIGHT)
    return (launched_now & in_step(s, r) & running(r)) >> (row_tokens(s, r) >= 1)


@contract(spec, s=Step, r=Request)
def who_gets_a_row_can_get_a_token(s: Expr, r: Expr) -> Expr:
    """A request gets a row only when it has a block with room for a token, and is still to have one."""
    return (~in_step(s, r) & after(in_step(s, r))) >> can_get_a_token(r)


@conforming(spec, s=Step, r=Request)
def launched_rows_have_tokens(s: Expr, r: Expr) -> Expr:
    """Follows from the first clause."""
    return (in_step(s, r) & running(r) & step_state(s).isin(S.INFLIGHT, S.DONE)) >> (row_tokens(s, r) >= 1)


@conforming(spec, s=Step, r=Request)
def empty_rows_can_get_a_token(s: Expr, r: Expr) -> Expr:
    """Follows from the second clause."""
    empty = in_step(s, r) & running(r) & (row_tokens(s, r) == 0)
    return (empty & (step_state(s) == S.PLANNED)) >> can_get_a_token(r)
