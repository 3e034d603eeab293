"""The request machine: submit, admit, decode, finish or abort, retract and requeue, recycle."""

from ..language.expressions import Expr
from ..language.spec import Number, Transition
from .bounds import ARRIVAL
from .vocabulary import *

PROMPT = Number(1, tried=(0, MAX_PROMPT))
LIMIT = Number(tried=lambda tokens: (tokens, tokens + MAX_OUTPUT))
TURN = Number(kind=ARRIVAL, tried=(newest_arrival(), newest_arrival() + 1))


@spec.transition(actor="client", r=Request, tokens=PROMPT, most=LIMIT, turn=TURN)
def submit(t: Transition, r: Expr, tokens: Expr, most: Expr, turn: Expr) -> None:
    """A client's request enters the waiting line."""
    t.move(request_state[r], R.ABSENT, R.WAITING)
    t.guard("room for output", tokens < most)
    t.guard("fits the pool", most <= ROOM + 1)  # the KV of the last output token is never needed
    t.guard("newest", newest_arrival() < turn)
    t.set(prompt[r], tokens)
    t.set(known[r], tokens)
    t.set(limit[r], most)
    t.set(arrival[r], turn)
    t.set(newest_arrival.place, turn)


@spec.transition(actor="client", r=Request)
def guide(t: Transition, r: Expr) -> None:
    """A request's output is to follow a grammar, which must see each token before it allows the next."""
    t.stay(request_state[r], R.WAITING)
    t.guard("not guided yet", ~guided(r))
    t.set(guided[r], True)


@spec.transition(r=Request)
def admit(t: Transition, r: Expr) -> None:
    """A waiting request starts to run, behind whatever prefix it matched."""
    t.move(request_state[r], R.WAITING, R.PREFILL)


@spec.transition(r=Request)
def finish(t: Transition, r: Expr) -> None:
    """The request has its output (limit, end token or stop string)."""
    t.move(request_state[r], R.DECODE, R.RELEASING)
    t.guard("has output", prompt(r) < known(r))


@spec.transition(actor="client", r=Request)
def abort(t: Transition, r: Expr) -> None:
    """The client gives up, at any moment."""
    t.move(request_state[r], (R.WAITING, R.PREFILL, R.DECODE, R.RETRACTING), R.RELEASING)


@spec.transition(r=Request, o=Request)
def retract(t: Transition, r: Expr, o: Expr) -> None:
    """Memory is short: a younger request makes room for an older one and will be recomputed."""
    t.move(request_state[r], (R.WAITING, R.PREFILL, R.DECODE), R.RETRACTING)
    t.guard("has blocks", blocks(r) >= 1)
    t.guard("drained", pending(r) == 0)
    t.guard("output left", known(r) < limit(r))
    t.guard("older one runs", running(o))
    t.guard("strictly older", arrival(o) < arrival(r))


@spec.transition(r=Request)
def requeue(t: Transition, r: Expr) -> None:
    """A retracted request has given its blocks back and waits again."""
    t.move(request_state[r], R.RETRACTING, R.WAITING)
    t.guard("no blocks", blocks(r) == 0)
    t.guard("nothing arriving", inbound(r) == 0)
    for variable in (planned, computed, pruned):
        t.set(variable[r], 0)


@spec.transition(r=Request)
def close(t: Transition, r: Expr) -> None:
    """A finished or aborted request has given all its blocks back."""
    t.move(request_state[r], R.RELEASING, R.FINISHED)
    t.guard("no blocks", blocks(r) == 0)


@spec.transition(r=Request)
def recycle(t: Transition, r: Expr) -> None:
    """No step mentions the request any more; its record may be used again."""
    t.move(request_state[r], R.FINISHED, R.ABSENT)
    t.guard("drained", pending(r) == 0)
    t.guard("nothing arriving", inbound(r) == 0)
    for variable in (arrival, prompt, limit, known, planned, computed, pruned, last_step):
        t.set(variable[r], 0)
    t.set(guided[r], False)
