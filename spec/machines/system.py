"""What holds in every reachable state: the properties that users rely on (P1, P2, ...) and the lemmas that prove them."""

from ..expressions import after, taken
from . import block as _block
from . import request as _request
from . import scope as _scope
from . import step as _step
from .vocabulary import (
    BLOCKS,
    PAGE,
    B,
    Block,
    R,
    Request,
    S,
    Step,
    arrival,
    block_state,
    blocks,
    cached,
    capacity,
    computed,
    executing,
    fill,
    flying,
    free,
    held,
    holds,
    in_step,
    known,
    landed,
    last_step,
    launched,
    leaving,
    limit,
    newest_arrival,
    number,
    opened,
    pending,
    planned,
    position,
    prompt,
    reads,
    refs,
    request_state,
    row_samples,
    row_start,
    row_tokens,
    rows,
    running,
    sampling,
    spec,
    stamp,
    step_state,
    stored,
    writes,
)

SPEC = spec
MACHINES = (_request, _block, _step, _scope)


def absent(r):  # type: ignore[no-untyped-def]
    return request_state(r) == R.ABSENT


def live(r):  # type: ignore[no-untyped-def]
    """The request keeps its blocks."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE)


def idle(b):  # type: ignore[no-untyped-def]
    return block_state(b).isin(B.FREE, B.CACHED, B.LIMBO)


# P1: no block is ever lost.
spec.safety("P1", "owned block has its owner", lambda b: (block_state(b) == B.OWNED) >> (refs(b) == 1),
            "A private block is held by exactly one request, so it can always be given back.", b=Block)  # fmt: skip
spec.safety("P1", "shared block has a holder", lambda b: (block_state(b) == B.SHARED) >> (1 <= refs(b)),
            "A shared block has at least one holder, so it can always be given back.", b=Block)  # fmt: skip
spec.safety("P1", "limbo ends", lambda b: stamp(b) <= opened(),
            "A block in limbo waits for a step that exists, so it is always reaped.", b=Block)  # fmt: skip
spec.safety("P1", "dead request holds nothing",
            lambda r: request_state(r).isin(R.ABSENT, R.FINISHED) >> (blocks(r) == 0),
            "A request that is over holds no block.", r=Request)  # fmt: skip

# P2: one writer, honest reference counts (the counts themselves are the obligations named "count ...").
spec.safety("P2", "exclusive owner",
            lambda r, q, b: ((block_state(b) == B.OWNED) & holds(r, b) & holds(q, b)) >> (r == q),
            "Two requests never hold the same private block.", r=Request, q=Request, b=Block)  # fmt: skip
spec.safety("P2", "one block for each position",
            lambda r, b, c: (live(r) & holds(r, b) & holds(r, c) & (b != c))
            >> ((position(b) + PAGE <= position(c)) | (position(c) + PAGE <= position(b))),
            "A request's blocks never cover the same token twice.", r=Request, b=Block, c=Block)  # fmt: skip

# P3: nothing is freed or handed on while a step in flight may touch it.
spec.safety("P3", "no free block in flight", lambda s, r, b: reads(s, r, b) >> (block_state(b) != B.FREE),
            "A block that a step in flight may read is never free.", s=Step, r=Request, b=Block)  # fmt: skip
spec.safety("P3", "no reuse in flight",
            lambda s, r, q, b: (reads(s, r, b) & (block_state(b) == B.OWNED) & holds(q, b)) >> (r == q),
            "A block that a step in flight reads for one request is never given to another to write.",
            s=Step, r=Request, q=Request, b=Block)  # fmt: skip

# P4: shared and cached blocks are complete and read-only.
spec.safety("P4", "no write to a shared block",
            lambda s, r, b: writes(s, r, b) >> block_state(b).isin(B.OWNED, B.LIMBO),
            "A step never writes a block that is shared or cached.", s=Step, r=Request, b=Block)  # fmt: skip
spec.safety("P4", "published block is full",
            lambda b: block_state(b).isin(B.SHARED, B.CACHED) >> (fill(b) == PAGE),
            "A block that others may match holds a full page of tokens.", b=Block)  # fmt: skip

# P5: conservation.
spec.safety("P5", "conservation", free() + held() + cached() == BLOCKS,
            "Free, held and cached blocks always add up to the pool.")  # fmt: skip
spec.safety("P5", "free block is clean", lambda b: (block_state(b) == B.FREE) >> (fill(b) == 0),
            "A free block holds no tokens.", b=Block)  # fmt: skip

# P6: never run without memory, never on a token that nobody computed.
spec.safety("P6", "enough blocks", lambda r: live(r) >> (planned(r) <= capacity(r)),
            "Every token that is planned has a place in a block of the request.", r=Request)  # fmt: skip
spec.safety("P6", "every token is stored", lambda r: live(r) >> (stored(r) == planned(r)),
            "The tokens in a request's blocks are exactly the tokens planned so far.", r=Request)  # fmt: skip
spec.safety("P6", "only the tail is partial",
            lambda r, b: (live(r) & holds(r, b) & (position(b) + PAGE <= planned(r))) >> (fill(b) == PAGE),
            "Every block before the tail of a request is full, so attention never reads a hole.",
            r=Request, b=Block)  # fmt: skip
spec.safety("P6", "nothing beyond the plan",
            lambda r, b: (live(r) & holds(r, b)) >> ((position(b) + fill(b) <= planned(r)) | (fill(b) == 0)),
            "No block holds a token beyond those planned.", r=Request, b=Block)  # fmt: skip
spec.safety("P6", "tokens accounted for", lambda r: live(r) >> (planned(r) == computed(r) + flying(r)),
            "Every planned token is either computed or in a step in flight.", r=Request)  # fmt: skip
spec.safety("P6", "no token from nowhere",
            lambda r: (request_state(r) == R.DECODE) >> (planned(r) + 1 == known(r) + sampling(r)),
            "The input of the next decode step is known, or is being sampled by a step in flight.", r=Request)  # fmt: skip
spec.safety("P6", "no overshoot", lambda r: (~absent(r)) >> ((known(r) <= limit(r)) & (planned(r) < limit(r))),
            "A request never gets more tokens than it asked for.", r=Request)  # fmt: skip

# P7: no double free, no use after free.
spec.safety("P7", "no use after free",
            lambda r, b: holds(r, b) >> block_state(b).isin(B.OWNED, B.SHARED),
            "A block in a block table is never free, cached or in limbo.", r=Request, b=Block)  # fmt: skip
spec.safety("P7", "no double free", lambda b: idle(b) >> (refs(b) == 0),
            "A block that was released has no holder left who could release it again.", b=Block)  # fmt: skip

# P9: the same, in terms of what the device really does.
spec.safety("P9", "device reads no free block",
            lambda s, r, b: (executing(s) & reads(s, r, b))
            >> block_state(b).isin(B.OWNED, B.SHARED, B.CACHED, B.LIMBO),
            "While the device works on a step, no block of it is free.", s=Step, r=Request, b=Block)  # fmt: skip
spec.safety("P9", "device works on launched steps", lambda s: executing(s) >> (step_state(s) == S.INFLIGHT),
            "The scheduler never treats a step as done while the device works on it.", s=Step)  # fmt: skip
spec.action("P9", "only the device ends a step",
            lambda s: (executing(s) & ~after(executing(s))) >> taken("device_done"),
            "No decision of the scheduler can make a step count as executed.", s=Step)  # fmt: skip

# P10: abort is possible at any moment, and then everything comes back.
spec.choice("abort while live", "abort", when=lambda r: request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE, R.RETRACTING), r=Request)
spec.choice("close when empty", "close", when=lambda r: (request_state(r) == R.RELEASING) & (blocks(r) == 0), r=Request)
spec.choice("reap when landed", "reap", when=lambda b: (block_state(b) == B.LIMBO) & (stamp(b) <= landed()), b=Block)
spec.action("P10", "leaving only shrinks",
            lambda r: (leaving(r) & ~taken("recycle")) >> (after(blocks(r)) <= blocks(r)),
            "A request that gives its blocks back never gets new ones.", r=Request)  # fmt: skip
spec.action("P10", "aborted stays aborted",
            lambda r: (request_state(r) == R.RELEASING) >> after(request_state(r)).isin(R.RELEASING, R.FINISHED),
            "A finished or aborted request never runs again.", r=Request)  # fmt: skip

# P11: results reach only the request they were computed for.
spec.safety("P11", "no stale row",
            lambda s, r: in_step(s, r) >> request_state(r).isin(R.PREFILL, R.DECODE, R.RELEASING, R.FINISHED),
            "A step mentions only requests that run or are on their way out, never a recycled record.",
            s=Step, r=Request)  # fmt: skip
spec.action("P11", "output comes from a done step",
            lambda r: (live(r) & ~(after(known(r)) == known(r))) >> taken("land_row"),
            "Output tokens come from landing a step and from nothing else.", r=Request)  # fmt: skip
spec.action("P11", "only executed tokens count",
            lambda r: (running(r) & (computed(r) < after(computed(r)))) >> taken("land_row"),
            "A token counts as computed only when its step has been executed and landed.", r=Request)  # fmt: skip
spec.safety("P11", "finished in order",
            lambda s, z: ((step_state(s) != S.IDLE) & (step_state(z) == S.DONE)) >> (number(z) <= number(s)),
            "Results are landed strictly in the order in which the steps were planned.", s=Step, z=Step)  # fmt: skip

# P14: determinism.
spec.safety("P14", "arrival numbers are unique",
            lambda r, q: (~absent(r) & ~absent(q) & (arrival(r) == arrival(q))) >> (r == q),
            "First come, first served has no ties.", r=Request, q=Request)  # fmt: skip

# Lemmas.
spec.lemma("steps are numbered in order", (landed() <= launched()) & (launched() <= opened()) & (opened() <= launched() + 1), "")
spec.lemma("live steps are numbered after the landed ones",
           lambda s: (step_state(s) != S.IDLE) >> ((landed() < number(s)) & (number(s) <= opened())), "", s=Step)  # fmt: skip
spec.lemma("launched steps", lambda s: step_state(s).isin(S.INFLIGHT, S.DONE) >> (number(s) <= launched()), "", s=Step)
spec.lemma("the planned step is the newest", lambda s: (step_state(s) == S.PLANNED) >> (number(s) == launched() + 1), "", s=Step)
spec.lemma("the done step is the oldest", lambda s: (step_state(s) == S.DONE) >> (number(s) == landed() + 1), "", s=Step)
spec.lemma("step numbers are unique",
           lambda s, z: ((step_state(s) != S.IDLE) & (step_state(z) != S.IDLE) & (number(s) == number(z))) >> (s == z),
           "", s=Step, z=Step)  # fmt: skip
spec.lemma("idle step is empty", lambda s: (step_state(s) == S.IDLE) >> (rows(s) == 0), "", s=Step)
spec.lemma("stamps are of launched steps or the planned one", lambda r: (0 <= last_step(r)) & (last_step(r) <= opened()), "", r=Request)
spec.lemma("last step is the last", lambda s, r: in_step(s, r) >> (number(s) <= last_step(r)), "", s=Step, r=Request)
spec.lemma("reads belong to a row", lambda s, r, b: reads(s, r, b) >> in_step(s, r), "", s=Step, r=Request, b=Block)
spec.lemma("writes are reads", lambda s, r, b: writes(s, r, b) >> reads(s, r, b), "", s=Step, r=Request, b=Block)
spec.lemma("reads are held or stamped",
           lambda s, r, b: reads(s, r, b) >> (holds(r, b) | (number(s) <= stamp(b))), "", s=Step, r=Request, b=Block)  # fmt: skip
spec.lemma("owned and free blocks carry an old stamp",
           lambda b: block_state(b).isin(B.OWNED, B.FREE) >> (stamp(b) <= landed()), "", b=Block)  # fmt: skip
spec.lemma("writes are ahead of what is computed",
           lambda s, r, b: (writes(s, r, b) & live(r)) >> (row_start(s, r) < position(b) + PAGE), "",
           s=Step, r=Request, b=Block)  # fmt: skip
spec.lemma("rows start after what is computed",
           lambda s, r: (in_step(s, r) & live(r))
           >> ((computed(r) <= row_start(s, r)) & (row_start(s, r) + row_tokens(s, r) <= planned(r))), "",
           s=Step, r=Request)  # fmt: skip
spec.lemma("rows follow each other",
           lambda s, z, r: (in_step(s, r) & in_step(z, r) & live(r) & (number(s) < number(z)))
           >> (row_start(s, r) + row_tokens(s, r) <= row_start(z, r)), "", s=Step, z=Step, r=Request)  # fmt: skip
spec.lemma("the open row ends at the plan",
           lambda s, r: (in_step(s, r) & live(r) & (step_state(s) == S.PLANNED))
           >> (row_start(s, r) + row_tokens(s, r) == planned(r)), "", s=Step, r=Request)  # fmt: skip
spec.lemma("empty row samples nothing", lambda s, r: (row_tokens(s, r) == 0) >> ~row_samples(s, r), "", s=Step, r=Request)
spec.lemma("rows are clean", lambda s, r: in_step(s, r) | ((row_tokens(s, r) == 0) & ~row_samples(s, r)), "", s=Step, r=Request)
spec.lemma("row tokens", lambda s, r: 0 <= row_tokens(s, r), "", s=Step, r=Request)
spec.lemma("fill", lambda b: (0 <= fill(b)) & (fill(b) <= PAGE), "", b=Block)
spec.lemma("blocks lie within the capacity", lambda r, b: (live(r) & holds(r, b)) >> (position(b) + PAGE <= capacity(r)), "", r=Request, b=Block)
spec.lemma("prefill has tokens left", lambda r: (request_state(r) == R.PREFILL) >> ((planned(r) < known(r)) & (sampling(r) == 0)), "", r=Request)
spec.lemma("output left before decode", lambda r: request_state(r).isin(R.WAITING, R.PREFILL, R.RETRACTING) >> (known(r) < limit(r)), "", r=Request)
spec.lemma("absent record is clean", lambda r: absent(r) >> ((planned(r) == 0) & (computed(r) == 0)), "", r=Request)
spec.lemma("waiting request has only a prefix",
           lambda r: (request_state(r) == R.WAITING) >> ((planned(r) == computed(r)) & (planned(r) == capacity(r)) & (planned(r) < known(r)) & (pending(r) == 0)), "", r=Request)  # fmt: skip
spec.lemma("retracting request is in no step", lambda r: request_state(r).isin(R.RETRACTING, R.ABSENT) >> (pending(r) == 0), "", r=Request)
spec.lemma("a request has a prompt and room", lambda r: (~absent(r)) >> ((1 <= prompt(r)) & (prompt(r) < limit(r)) & (prompt(r) <= known(r))), "", r=Request)
spec.lemma("arrivals are numbered", lambda r: (0 <= arrival(r)) & (arrival(r) <= newest_arrival()), "", r=Request)
