"""The step machine: open, add rows, launch, wait for the device, land the rows in order, retire."""

from ..language.expressions import Expr, if_else, one_if
from ..language.spec import ANY, Number, Transition
from .vocabulary import *


@spec.transition(s=Step)
def open_step(t: Transition, s: Expr) -> None:
    """The planner starts the next step; others may be in flight."""
    t.move(step_state[s], S.IDLE, S.PLANNED)
    t.guard("one at a time", opened() == launched())
    t.set(number[s], opened() + 1)
    t.add(opened.place, 1)


def join_step(t: Transition, s: Expr, r: Expr, n: Expr) -> None:
    """Guards and effects: a row of the request's next `n` tokens; they fall into incomplete blocks, so private ones."""
    t.stay(step_state[s], S.PLANNED)
    t.guard("once per step", ~in_step(s, r))
    t.guard("nothing arriving", inbound(r) == 0)
    t.guard("room", planned(r) + n <= end_of_table(r))
    t.join(in_step[s, r])
    t.was(row_tokens[s, r], 0)
    t.was(row_outputs[s, r], 0)
    t.set(row_start[s, r], planned(r))
    t.set(row_tokens[s, r], n)
    t.add(planned[r], n)
    t.set(last_step[r], number(s))
    # If drafts in flight are rejected, the row starts earlier: it may write every block that is not complete.
    t.set(reads[s, r, ANY], lambda x: holds(r, x))
    t.set(writes[s, r, ANY], lambda x: holds(r, x) & (computed(r) < position(x) + PAGE))


@spec.transition(s=Step, r=Request, n=Number(1, tried=(0, PAGE)))
def prefill(t: Transition, s: Expr, r: Expr, n: Expr) -> None:
    """A chunk of known tokens joins the step; more known tokens remain."""
    t.stay(request_state[r], R.PREFILL)
    join_step(t, s, r, n)
    t.guard("more remains", planned(r) + n < known(r))


@spec.transition(s=Step, r=Request, n=Number(1, tried=(0, PAGE)))
def prefill_last(t: Transition, s: Expr, r: Expr, n: Expr) -> None:
    """The last known tokens join the step: the row ends in a sampled token and the request decodes from now on."""
    t.move(request_state[r], R.PREFILL, R.DECODE)
    join_step(t, s, r, n)
    t.guard("nothing remains", planned(r) + n == known(r))
    t.set(row_outputs[s, r], 1)


@spec.transition(s=Step, r=Request, n=Number(1, WIDTH, tried=(0, WIDTH + 1)))
def decode(t: Transition, s: Expr, r: Expr, n: Expr) -> None:
    """The newest known token, or the one that the step before samples, and draft tokens behind it join."""
    t.stay(request_state[r], R.DECODE)
    join_step(t, s, r, n)
    t.guard("output left", planned(r) + n < limit(r))
    t.guard("last token seen", ~guided(r) | (sampling(r) == 0))
    t.set(row_outputs[s, r], n)


@spec.transition(s=Step)
def launch(t: Transition, s: Expr) -> None:
    """The step is handed to the device."""
    t.move(step_state[s], S.PLANNED, S.INFLIGHT)
    t.guard("not empty", rows(s) >= 1)
    t.set(executing[s], True)
    t.set(launched.place, number(s))


@spec.transition(actor="device", s=Step)
def device_done(t: Transition, s: Expr) -> None:
    """The device has executed the step."""
    t.guard("executing", executing(s))
    t.set(executing[s], False)


@spec.transition(s=Step)
def observe(t: Transition, s: Expr) -> None:
    """The driver reports the oldest step in flight as done."""
    t.move(step_state[s], S.INFLIGHT, S.DONE)
    t.guard("device idle", ~executing(s))
    t.guard("oldest in flight", number(s) == landed() + 1)


def leave_step(t: Transition, s: Expr, r: Expr) -> None:
    """Guards and effects: the row is gone."""
    t.stay(step_state[s], S.DONE)
    t.guard("has a row", in_step(s, r))
    t.leave(in_step[s, r])
    t.set(row_tokens[s, r], 0)
    t.set(row_outputs[s, r], 0)
    t.set(reads[s, r, ANY], False)


@spec.transition(s=Step, r=Request, accepted=Number(0, tried=(0, WIDTH + 1)))
def land_row(t: Transition, s: Expr, r: Expr, accepted: Expr) -> None:
    """The row's KV is written and its accepted output tokens are known; rejected drafts are rolled back."""
    t.stay(request_state[r], R.PREFILL, R.DECODE)
    leave_step(t, s, r)
    t.guard("accepted what was drafted", accepted <= row_outputs(s, r))
    t.guard("at least one token", one_if(row_outputs(s, r) >= 1) <= accepted)
    rejected = row_outputs(s, r) - accepted
    t.set(computed[r], computed(r) + row_tokens(s, r) - rejected)
    t.set(planned[r], planned(r) - rejected)
    t.add(known[r], accepted)

    # Later rows in flight start where the accepted tokens end, so they write nothing below what is now computed.
    def later(z: Expr) -> Expr:
        return (z != s) & in_step(z, r)

    t.set(row_start[ANY, r], lambda z: if_else(later(z), row_start(z, r) - rejected, 0))
    computed_now = computed(r) + row_tokens(s, r) - rejected
    t.set(writes[ANY, r, ANY], lambda z, x: later(z) & writes(z, r, x) & (computed_now < position(x) + PAGE))


@spec.transition(s=Step, r=Request)
def drop_row(t: Transition, s: Expr, r: Expr) -> None:
    """The request finished or was aborted meanwhile: its result is ignored."""
    t.stay(request_state[r], R.RELEASING, R.FINISHED)
    leave_step(t, s, r)
    t.set(row_start[s, r], 0)
    t.set(writes[s, r, ANY], False)


@spec.transition(s=Step)
def retire(t: Transition, s: Expr) -> None:
    """All rows have landed; blocks that waited for this step may be reaped."""
    t.move(step_state[s], S.DONE, S.IDLE)
    t.guard("no rows left", rows(s) == 0)
    t.set(landed.place, number(s))
    t.set(number[s], 0)
