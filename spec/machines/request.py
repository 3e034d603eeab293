"""The request machine: submit, admit, decode, finish or abort, retract and requeue, recycle."""

from .vocabulary import (
    R,
    Request,
    arrival,
    blocks,
    computed,
    known,
    last_step,
    limit,
    newest_arrival,
    pending,
    planned,
    prompt,
    request_state,
    running,
    spec,
)

with spec.transition(
    "submit", "A client's request enters the waiting line.", actor="client",
    r=Request, tokens=(1, None), most=(None, None), turn=(None, None),
) as (t, r, tokens, most, turn):  # fmt: skip
    t.move(request_state[r], R.ABSENT, R.WAITING)
    t.guard("room for output", tokens < most)
    t.guard("newest", newest_arrival() < turn)
    t.set(prompt[r], tokens)
    t.set(known[r], tokens)
    t.set(limit[r], most)
    t.set(arrival[r], turn)
    t.set(newest_arrival.place, turn)

with spec.transition("admit", "A waiting request starts to run, behind whatever prefix it matched.", r=Request) as (t, r):
    t.move(request_state[r], R.WAITING, R.PREFILL)

with spec.transition("finish", "The request has its output (limit, end token or stop string).", r=Request) as (t, r):
    t.move(request_state[r], R.DECODE, R.RELEASING)
    t.guard("has output", prompt(r) < known(r))

with spec.transition("abort", "The client gives up, at any moment.", actor="client", r=Request) as (t, r):
    t.move(request_state[r], (R.WAITING, R.PREFILL, R.DECODE, R.RETRACTING), R.RELEASING)

with spec.transition(
    "retract", "Memory is short: a younger request makes room for an older one and will be recomputed.", r=Request, o=Request
) as (t, r, o):
    t.move(request_state[r], (R.PREFILL, R.DECODE), R.RETRACTING)
    t.guard("drained", pending(r) == 0)
    t.guard("output left", known(r) < limit(r))
    t.guard("older one runs", running(o))
    t.guard("strictly older", arrival(o) < arrival(r))

with spec.transition("requeue", "A retracted request has given its blocks back and waits again.", r=Request) as (t, r):
    t.move(request_state[r], R.RETRACTING, R.WAITING)
    t.guard("no blocks", blocks(r) == 0)
    t.set(planned[r], 0)
    t.set(computed[r], 0)

with spec.transition("close", "A finished or aborted request has given all its blocks back.", r=Request) as (t, r):
    t.move(request_state[r], R.RELEASING, R.FINISHED)
    t.guard("no blocks", blocks(r) == 0)

with spec.transition("recycle", "No step mentions the request any more; its record may be used again.", r=Request) as (t, r):
    t.move(request_state[r], R.FINISHED, R.ABSENT)
    t.guard("drained", pending(r) == 0)
    for variable in (arrival, prompt, limit, known, planned, computed, last_step):
        t.set(variable[r], 0)
