"""What holds of devices, aborts, results and order: P9 to P14, each explained by its sentence."""

from ..language.expressions import Expr, after, taken
from ..machines.prefix_tree import children, parent
from ..machines.vocabulary import *

# P9: the same, in terms of what the device really does.


@spec.safety("P9", s=Step, r=Request, b=Block)
def device_reads_no_free_block(s: Expr, r: Expr, b: Expr) -> Expr:
    """While the device works on a step, no block of it is free or being overwritten by a copy."""
    return (executing(s) & reads(s, r, b)) >> block_state(b).isin(B.OWNED, B.SHARED, B.CACHED, B.LIMBO)


@spec.safety("P9", s=Step)
def device_works_on_launched_steps(s: Expr) -> Expr:
    """The scheduler never treats a step as done while the device works on it."""
    return executing(s) >> (step_state(s) == S.INFLIGHT)


@spec.action("P9", s=Step)
def only_the_device_ends_a_step(s: Expr) -> Expr:
    """No decision of the scheduler can make a step count as executed."""
    return (executing(s) & ~after(executing(s))) >> taken("device_done")


@spec.action("P9", s=Step)
def a_launched_step_is_executed(s: Expr) -> Expr:
    """A step in flight was handed to the device, with at least one row."""
    launches = (step_state(s) != S.INFLIGHT) & (after(step_state(s)) == S.INFLIGHT)
    return launches >> (after(executing(s)) & (rows(s) >= 1))


@spec.action("P9", s=Step, r=Request)
def rows_join_planned_steps_and_leave_done_ones(s: Expr, r: Expr) -> Expr:
    """A request joins a step only while it is planned and leaves it only when the device is done."""
    joins = ~in_step(s, r) & after(in_step(s, r))
    leaves = in_step(s, r) & ~after(in_step(s, r))
    return (joins >> (step_state(s) == S.PLANNED)) & (leaves >> (step_state(s) == S.DONE))


# P10: abort is possible at any moment, and then everything comes back.


@spec.choice("P10", "abort", r=Request)
def abort_is_possible_while_live(r: Expr) -> Expr:
    """A request can be aborted at any moment of its life."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE, R.RETRACTING)


@spec.choice("P10", "release_owned", "release_to_limbo", "release_shared", "release_to_cache", r=Request, b=Block)
def every_block_of_a_leaving_request_is_released(r: Expr, b: Expr) -> Expr:
    """For every block of a request that finished, was aborted or is retracted, exactly one release is possible."""
    return leaving(r) & holds(r, b)


@spec.choice("P10", "release_owned", "release_to_limbo", "release_shared", "release_to_cache", r=Request, b=Block)
def a_block_behind_the_window_is_released(r: Expr, b: Expr) -> Expr:
    """The first block of a running request, if no block continues it, can be given back once no token will read it."""
    behind = (position(b) == pruned(r)) & (position(b) + PAGE + WINDOW <= computed(r) + 1)
    return running(r) & holds(r, b) & behind & (children(b) == 0)


@spec.choice("P10", "close", r=Request)
def an_empty_leaving_request_is_closed(r: Expr) -> Expr:
    """A request that has given back everything can be closed."""
    return (request_state(r) == R.RELEASING) & (blocks(r) == 0)


@spec.choice("P10", "requeue", r=Request)
def an_empty_retracted_request_waits_again(r: Expr) -> Expr:
    """A retracted request that has given back everything, and to which no peer writes, can be queued again."""
    return (request_state(r) == R.RETRACTING) & (blocks(r) == 0) & (inbound(r) == 0)


@spec.choice("P10", "recycle", r=Request)
def a_finished_record_is_recycled(r: Expr) -> Expr:
    """The record of a finished request can be used again when no step and no peer mentions it."""
    return (request_state(r) == R.FINISHED) & (pending(r) == 0) & (inbound(r) == 0)


@spec.choice("P10", "reap", b=Block)
def limbo_is_reaped(b: Expr) -> Expr:
    """A block in limbo is free as soon as its last step has landed and its last copy has ended."""
    return (block_state(b) == B.LIMBO) & (stamp(b) <= landed()) & (copies(b) == 0)


@spec.choice("P10", "evict", b=Block, p=Block)
def a_quiet_cached_leaf_makes_room(b: Expr, p: Expr) -> Expr:
    """A cached block that nothing touches and no block continues can be evicted."""
    quiet = (stamp(b) <= landed()) & (copies(b) == 0)
    return (block_state(b) == B.CACHED) & parent(b, p) & (children(b) == 0) & quiet


@spec.action("P10", r=Request)
def leaving_only_shrinks(r: Expr) -> Expr:
    """A request that gives its blocks back never gets new ones."""
    return (leaving(r) & ~taken("recycle")) >> (after(blocks(r)) <= blocks(r))


@spec.action("P10", r=Request)
def aborted_stays_aborted(r: Expr) -> Expr:
    """A finished or aborted request never runs again."""
    return (request_state(r) == R.RELEASING) >> after(request_state(r)).isin(R.RELEASING, R.FINISHED)


# P11: results reach only the request they were computed for.


@spec.safety("P11", s=Step, r=Request)
def no_stale_row(s: Expr, r: Expr) -> Expr:
    """A step mentions only requests that run or are on their way out, never a recycled record."""
    return in_step(s, r) >> request_state(r).isin(R.PREFILL, R.DECODE, R.RELEASING, R.FINISHED)


@spec.action("P11", r=Request)
def output_comes_from_a_done_step(r: Expr) -> Expr:
    """Output tokens come from landing a step and from nothing else."""
    return (live(r) & (after(known(r)) != known(r))) >> (taken("land_row") & (known(r) < after(known(r))))


@spec.action("P11", r=Request)
def only_executed_tokens_count(r: Expr) -> Expr:
    """A token counts as computed only when its step has landed or its copy has ended."""
    return (running(r) & (computed(r) < after(computed(r)))) >> (taken("land_row") | taken("receive_done"))


@spec.safety("P11", s=Step, z=Step)
def finished_in_order(s: Expr, z: Expr) -> Expr:
    """Results are landed strictly in the order in which the steps were planned."""
    return ((step_state(s) != S.IDLE) & (step_state(z) == S.DONE)) >> (number(z) <= number(s))


@spec.safety("P11", s=Step)
def idle_step_is_empty(s: Expr) -> Expr:
    """An unused step record mentions no request."""
    return (step_state(s) == S.IDLE) >> (rows(s) == 0)


@spec.safety("P11", r=Request)
def a_recycled_record_carries_nothing_over(r: Expr) -> Expr:
    """A request record that is used again starts from zero."""
    numbers = (arrival(r) == 0) & (prompt(r) == 0) & (limit(r) == 0) & (known(r) == 0)
    progress = (planned(r) == 0) & (computed(r) == 0) & (pruned(r) == 0) & (last_step(r) == 0)
    return absent(r) >> (numbers & progress & ~guided(r))


@spec.safety("P11", s=Step, z=Step, r=Request)
def a_grammar_sees_each_token_first(s: Expr, z: Expr, r: Expr) -> Expr:
    """Of a request whose output follows a grammar, no two steps sample at once: the grammar sees what came before."""
    both = in_step(s, r) & in_step(z, r) & (row_outputs(s, r) >= 1) & (row_outputs(z, r) >= 1)
    return (guided(r) & live(r) & both) >> (s == z)


@spec.action("P11", r=Request)
def a_guided_request_stays_guided(r: Expr) -> Expr:
    """A request keeps its grammar until its record is used again."""
    return (guided(r) & ~after(guided(r))) >> taken("recycle")


@spec.safety("P11", s=Step, r=Request)
def a_row_that_left_carries_nothing_over(s: Expr, r: Expr) -> Expr:
    """Where a request has no row in a step there are no row tokens, no outputs and no start."""
    return in_step(s, r) | ((row_start(s, r) == 0) & (row_tokens(s, r) == 0) & (row_outputs(s, r) == 0))


@spec.safety("P11", s=Step, r=Request, b=Block)
def reads_belong_to_a_row(s: Expr, r: Expr, b: Expr) -> Expr:
    """A step touches blocks only for requests that have a row in it."""
    return reads(s, r, b) >> in_step(s, r)


@spec.safety("P11", s=Step, r=Request, b=Block)
def writes_are_reads(s: Expr, r: Expr, b: Expr) -> Expr:
    """A block that a step writes counts as touched by it."""
    return writes(s, r, b) >> reads(s, r, b)


# P14: determinism.


@spec.choice("P14", "land_row", "drop_row", s=Step, r=Request, arguments=lambda s, r: {"accepted": row_outputs(s, r)})
def a_done_row_is_landed_or_dropped(s: Expr, r: Expr) -> Expr:
    """Every row of a done step is landed if its request runs and dropped if it left: never both, never neither."""
    return (step_state(s) == S.DONE) & in_step(s, r)


@spec.safety("P14", r=Request, q=Request)
def arrival_numbers_are_unique(r: Expr, q: Expr) -> Expr:
    """First come, first served has no ties."""
    return (~absent(r) & ~absent(q) & (arrival(r) == arrival(q))) >> (r == q)


@spec.safety("P14")
def steps_are_numbered_in_order() -> Expr:
    """At most one step is being planned; steps land in the order of their numbers."""
    return (landed() <= launched()) & (launched() <= opened()) & (opened() <= launched() + 1)


@spec.safety("P14", s=Step)
def the_planned_step_is_the_newest(s: Expr) -> Expr:
    """The step being planned follows the last one launched."""
    return (step_state(s) == S.PLANNED) >> (number(s) == launched() + 1)


@spec.safety("P14", s=Step)
def live_steps_are_numbered_after_the_landed_ones(s: Expr) -> Expr:
    """A step that has not landed has a number between the landed and the newest."""
    return (step_state(s) != S.IDLE) >> ((landed() < number(s)) & (number(s) <= opened()))


@spec.safety("P14", s=Step, z=Step)
def step_numbers_are_unique(s: Expr, z: Expr) -> Expr:
    """Two steps that have not landed have different numbers."""
    return ((step_state(s) != S.IDLE) & (step_state(z) != S.IDLE) & (number(s) == number(z))) >> (s == z)


@spec.safety("P14", s=Step)
def launched_steps_have_launched_numbers(s: Expr) -> Expr:
    """A step on or back from the device has a number that was launched."""
    return step_state(s).isin(S.INFLIGHT, S.DONE) >> (number(s) <= launched())


@spec.safety("P14", r=Request)
def arrivals_are_numbered(r: Expr) -> Expr:
    """Arrival numbers are given in increasing order."""
    return (arrival(r) >= 0) & (arrival(r) <= newest_arrival())


@spec.safety("P14", r=Request)
def last_step_exists(r: Expr) -> Expr:
    """The last step of a request is one that exists."""
    return (last_step(r) >= 0) & (last_step(r) <= opened())


@spec.safety("P14", s=Step)
def an_idle_step_has_no_number(s: Expr) -> Expr:
    """Numbers belong to steps that have not landed."""
    return (step_state(s) == S.IDLE) >> (number(s) == 0)


@spec.action("P14")
def steps_are_counted_one_by_one() -> Expr:
    """Opening, launching and landing a step each advance their count by one."""
    opens = taken("open_step") >> (after(opened()) == opened() + 1)
    launches = taken("launch") >> (after(launched()) == launched() + 1)
    return opens & launches & (taken("retire") >> (after(landed()) == landed() + 1))


@spec.action("P14", s=Step)
def an_opened_step_is_planned(s: Expr) -> Expr:
    """A step that gets a number is the one that is planned now."""
    return (taken("open_step") & (after(number(s)) != number(s))) >> (after(step_state(s)) == S.PLANNED)


@spec.action("P14", r=Request)
def requests_wait_first(r: Expr) -> Expr:
    """A new request waits, with the newest arrival number; so does a retracted one, with its old number."""
    starts = absent(r) & ~(after(request_state(r)) == R.ABSENT)
    begins = (after(request_state(r)) == R.WAITING) & (after(arrival(r)) == after(newest_arrival()))
    again = (request_state(r) == R.RETRACTING) & (after(request_state(r)) != R.RETRACTING) & ~taken("abort")
    return (starts >> begins) & (again >> ((after(request_state(r)) == R.WAITING) & (after(arrival(r)) == arrival(r))))


@spec.action("P14", r=Request)
def running_requests_stop_for_a_reason(r: Expr) -> Expr:
    """A running request stops running by finishing, by being aborted or retracted, or because its peer is gone."""
    stops = running(r) & ~after(running(r))
    leaves = after(request_state(r)) == R.RELEASING
    retracted = (after(request_state(r)) == R.RETRACTING) & (taken("retract") | taken("receive_failed"))
    return stops >> (((taken("finish") | taken("abort")) & leaves) | retracted)
