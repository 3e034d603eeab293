"""That the system never gets stuck: L1 to L4, each explained by its sentence.

Together: a step that was opened ends (L1), what is released comes back (L2, with P10), the oldest request always
advances and is never set back by others (L3), and making room always frees something (L4). That every accepted request
then finishes is L5, in liveness.py.
"""

from ..language.expressions import INT, Expr, after, lift, taken
from ..language.progress import Progress, progress
from ..machines.prefix_tree import children, parents, published
from ..machines.vocabulary import *

spec.tiling(capacity, position=position, start=pruned, when=live)

# L1: no deadlock.


@spec.choice("L1", "launch", s=Step)
def a_planned_step_can_be_launched(s: Expr) -> Expr:
    """A step with rows can be handed to the device, however many are in flight."""
    return (step_state(s) == S.PLANNED) & (rows(s) >= 1)


@spec.choice("L1", "device_done", s=Step)
def a_launched_step_ends(s: Expr) -> Expr:
    """The device can end any step that it works on."""
    return executing(s)


@spec.choice("L1", "observe", s=Step)
def an_executed_step_can_be_landed(s: Expr) -> Expr:
    """The oldest step that the device is through with can be landed."""
    return (step_state(s) == S.INFLIGHT) & ~executing(s) & (number(s) == landed() + 1)


@spec.choice("L1", "retire", s=Step)
def a_landed_step_is_retired(s: Expr) -> Expr:
    """A step without rows left ends, and what waited for it can be reaped."""
    return (step_state(s) == S.DONE) & (rows(s) == 0)


@spec.choice("L1", "open_step", s=Step)
def the_next_step_can_be_opened(s: Expr) -> Expr:
    """As soon as the planned step is launched, any unused record serves for the next."""
    return (step_state(s) == S.IDLE) & (opened() == launched())


@spec.choice("L1", "admit", r=Request)
def a_waiting_request_can_be_admitted(r: Expr) -> Expr:
    """Nothing but policy keeps a request waiting."""
    return request_state(r) == R.WAITING


@progress(spec, "L2", b=Block)
def what_hangs_under_a_failed_fetch_goes_first(p: Progress, b: Expr) -> None:
    """A block whose fetch failed is free at once, or something fetched behind it can go, or is being copied."""
    p.when(block_state(b) == B.FETCHING)
    c = p.one_of(copies, b)
    p.when(failed(c) & ~copying(c))
    p.then("fetch_failed", c, b, p.one_of(copy_hosts, c), p.one_of(parents, b))
    child = p.one_of(children, b)
    p.then("evict", child, b)
    behind = (children(child) >= 1) | (copies(child) >= 1) | (landed() < stamp(child))
    p.or_holds((children(b) >= 1) & published(child) & behind)


@spec.choice("L1", "copy_done", c=Copy)
def a_copy_ends(c: Expr) -> Expr:
    """An engine or peer can end any copy that it works on."""
    return copying(c)


@progress(spec, "L1", s=Step, r=Request)
def a_running_request_with_room_can_join_a_step(p: Progress, s: Expr, r: Expr) -> None:
    """A running request with room for its next token can join the planned step, if it need not see one first."""
    p.when((step_state(s) == S.PLANNED) & ~in_step(s, r) & running(r) & (inbound(r) == 0))
    p.when((planned(r) < end_of_table(r)) & (planned(r) + 1 < limit(r)) & (~guided(r) | (sampling(r) == 0)))
    p.then("prefill", s, r, 1)
    p.then("prefill_last", s, r, 1)
    p.then("decode", s, r, 1)


@progress(spec, "L1", s=Step, r=Request)
def drafts_are_planned_up_to_the_width(p: Progress, s: Expr, r: Expr) -> None:
    """A decoding request can have as many draft tokens as fit the width, its blocks and its limit."""
    p.when((step_state(s) == S.PLANNED) & ~in_step(s, r) & (request_state(r) == R.DECODE))
    p.when((planned(r) + WIDTH <= end_of_table(r)) & (planned(r) + WIDTH < limit(r)))
    p.when(~guided(r) | (sampling(r) == 0))
    p.then("decode", s, r, WIDTH)


@progress(spec, "P6", r=Request, at=INT)
def every_token_has_its_private_block(p: Progress, r: Expr, at: Expr) -> None:
    """Every token that is being computed lies in exactly one block of the request, which nobody else may touch."""
    p.when(live(r) & (computed(r) <= at) & (at < planned(r)))
    b = p.covering(capacity, at, r)
    p.or_holds(holds(r, b) & (position(b) <= at) & (at < position(b) + PAGE) & (block_state(b) == B.OWNED))


@spec.choice(
    "L1", "submit", r=Request, arguments=lambda r: {"tokens": lift(1), "most": lift(2), "turn": newest_arrival() + 1}
)
def the_smallest_request_is_accepted(r: Expr) -> Expr:
    """One prompt token and one output token: accepted if the pool has any room."""
    return absent(r) & (ROOM >= 1)


@spec.choice(
    "L1", "submit", r=Request, arguments=lambda r: {"tokens": ROOM, "most": ROOM + 1, "turn": newest_arrival() + 1}
)
def the_largest_request_is_accepted(r: Expr) -> Expr:
    """A request whose KV fills the whole pool is accepted."""
    return absent(r) & (ROOM >= 1)


@progress(spec, "L1", r=Request)
def memory_is_found_for_the_oldest(p: Progress, r: Expr) -> None:
    """When nothing is in flight, the oldest request gets a block, or somebody else's block comes a step nearer."""
    p.when(running(r) & (planned(r) == end_of_table(r)) & (planned(r) + 1 < limit(r)))
    p.when(opened() == landed())
    p.for_all(Request, lambda q: request_state(q).isin(R.WAITING, R.PREFILL, R.DECODE) >> (arrival(r) <= arrival(q)))
    p.for_all(Copy, lambda c: copy_state(c) == C.IDLE)
    # Of the idle blocks the one farthest from the start of its text. If it is cached and not a leaf, the block that
    # continues it is held, but not by the oldest request, which holds whatever its own blocks continue.
    idle_block = p.farthest(idle_room, position)
    p.one_of(copies, idle_block)  # there is none, so the block waits for no copy
    p.then("allocate", r, idle_block)
    p.then("evict", idle_block, p.one_of(parents, idle_block))
    p.then("reap", idle_block)
    for other_block in (p.one_more(held_room(), capacity(r)), p.one_of(children, idle_block)):
        holder = p.one_of(refs, other_block)
        p.one_of(pending, holder)  # there is none, so it waits for no step
        p.then("retract", holder, r)
        p.then("finish", holder)
        for release in ("release_owned", "release_to_limbo", "release_shared", "release_to_cache"):
            p.then(release, holder, other_block)


@spec.choice("L1", "retract", r=Request, o=Request)
def a_younger_request_makes_room_for_an_older_one(r: Expr, o: Expr) -> Expr:
    """Whoever holds blocks, is in no step and has output left can give way to an older request that runs."""
    gives_way = request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE) & (blocks(r) >= 1) & (pending(r) == 0)
    return gives_way & (known(r) < limit(r)) & running(o) & (arrival(o) < arrival(r))


@progress(spec, "L1", r=Request)
def a_request_with_all_its_output_finishes(p: Progress, r: Expr) -> None:
    """A request that has reached its limit finishes; nobody has to make room for it again."""
    p.when((request_state(r) == R.DECODE) & (known(r) == limit(r)))
    p.then("finish", r)


# L2: everything drains.


@progress(spec, "L2", r=Request)
def a_leaving_request_gives_a_block_back(p: Progress, r: Expr) -> None:
    """A leaving request that still holds blocks can give one back at once."""
    p.when(leaving(r) & (blocks(r) >= 1))
    b = p.one_of(blocks, r)
    for release in ("release_owned", "release_to_limbo", "release_shared", "release_to_cache"):
        p.then(release, r, b)


@progress(spec, "L2", b=Block)
def a_block_that_waits_for_a_copy_has_one(p: Progress, b: Expr) -> None:
    """A block that cannot be freed because of a copy waits for one that can end."""
    p.when(copies(b) >= 1)
    c = p.one_of(copies, b)
    p.when(copying(c))
    p.then("copy_done", c)


# L3: what was accepted finishes.


@spec.safety("L3", r=Request)
def what_was_accepted_can_always_be_admitted_again(r: Expr) -> Expr:
    """Whatever a request has generated, the pool alone is large enough for all that it may still need."""
    return (~absent(r)) >> ((known(r) <= limit(r)) & (limit(r) <= ROOM + 1))


@spec.action("L3", given=(Request, lambda q, r: running(q) >> (arrival(r) <= arrival(q))), r=Request)
def the_oldest_running_request_is_never_retracted(r: Expr) -> Expr:
    """Nobody takes memory from the oldest running request; only the loss of its own peer sets it back."""
    set_back = after(request_state(r)) == R.RETRACTING
    return (running(r) & set_back) >> taken("receive_failed")


@spec.action("L3", r=Request)
def a_request_keeps_its_place(r: Expr) -> Expr:
    """A request keeps its arrival number and its limit as long as it exists, also when it is retracted."""
    same = (after(arrival(r)) == arrival(r)) & (after(limit(r)) == limit(r)) & (after(prompt(r)) == prompt(r))
    return (~absent(r) & ~taken("recycle")) >> same


# L4: making room frees something.


@spec.action("L4", r=Request)
def a_retraction_frees_something(r: Expr) -> Expr:
    """Who is retracted has blocks to give and no step in flight, so the room comes at once and not in a cascade."""
    retracted = taken("retract") & (after(request_state(r)) != request_state(r))
    return retracted >> ((blocks(r) >= 1) & (pending(r) == 0))
