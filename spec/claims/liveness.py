"""Every accepted request finishes or is aborted: L5, proved by stages and ranks (ranking.py says how).

The root is the situation of the oldest request that has not finished. Its rank is how far it is from its end. In
every stage inside, somebody can do something that helps: the request itself, or whoever it waits for (a step, a copy,
a holder of blocks, a block that is not free yet). When the oldest has finished, the next is the oldest. Nobody
overtakes, and fewer requests than its arrival number are older than any request, so every one becomes the oldest in
the end.
"""

from ..language.expressions import Expr, after, if_else, lift, one_if, taken
from ..language.ranking import Stage, make_stage, stage
from ..machines.vocabulary import *

RELEASES = ("release_owned", "release_to_limbo", "release_shared", "release_to_cache")

spec.tiling(live_steps, position=number, start=lambda: landed() + 1, when=lambda: lift(True))


def needy(r: Expr) -> Expr:
    """The request was accepted, and has neither finished nor been aborted."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE, R.RETRACTING)


def set_back(r: Expr) -> Expr:
    """The request was retracted and has not been queued again."""
    return request_state(r) == R.RETRACTING


@spec.action("L5", r=Request, q=Request)
def nobody_overtakes(r: Expr, q: Expr) -> Expr:
    """Whoever is older than a request in the line was so before: those in front of it only get fewer."""
    both = needy(r) & after(needy(r)) & after(needy(q))
    return (both & (after(arrival(q)) < after(arrival(r)))) >> (needy(q) & (arrival(q) < arrival(r)))


@stage(spec, "L5", r=Request)
def the_oldest_request(x: Stage, r: Expr) -> None:
    """Whoever is the oldest advances until it finishes, is aborted or loses its peer, or a copy to the host fails."""
    x.when(needy(r))
    x.for_all(Request, lambda q: needy(q) >> (arrival(r) <= arrival(q)))
    x.rank(
        limit(r) - known(r),
        one_if(set_back(r)),
        if_else(set_back(r), 0, limit(r) - computed(r)),
        one_if(request_state(r) == R.WAITING),
        if_else(set_back(r), 0, limit(r) + PAGE - end_of_table(r)),
        limit(r) - planned(r),
        one_if(pending(r) == 0),
    )
    x.ends_when(~after(needy(r)))
    x.ends_when(taken("receive_failed") & ~set_back(r) & after(set_back(r)))
    x.ends_when(taken("spill_failed"))


# Steps: whoever waits for a step waits for the oldest one first.


def pipeline(around: Stage) -> Stage:
    """A stage inside one that lasts until enough steps have landed: the oldest step advances."""

    def body(x: Stage, *individuals: Expr) -> None:
        z = individuals[-1]
        x.when((step_state(z) != S.IDLE) & (number(z) == landed() + 1))
        inflight = if_else(executing(z), 2, 1)
        x.rank(
            if_else(step_state(z) == S.PLANNED, 3, if_else(step_state(z) == S.INFLIGHT, inflight, 0)),
            if_else(step_state(z) == S.DONE, rows(z), 0),
        )
        row = x.cover.one_of(rows, z)
        x.helpful("launch", z)
        x.helpful("device_done", z)
        x.helpful("observe", z)
        x.helpful("land_row", z, row, row_outputs(z, row))
        x.helpful("drop_row", z, row)
        x.helpful("retire", z)

    doc = "The oldest step is launched, executed, observed, landed row by row, and retired."
    name = f"{around.name}, the oldest step"
    return make_stage(around, name, doc, body, z=(Step, lambda p, *_: p.covering(live_steps, landed() + 1)))


# The oldest request gives its blocks back, waits, or receives.


@stage(the_oldest_request)
def it_was_retracted(x: Stage, r: Expr) -> None:
    """It gives its blocks back, and peers that still write for it end."""
    x.when(set_back(r))
    x.rank(blocks(r), inbound(r))


@stage(it_was_retracted)
def it_gives_its_blocks_back(x: Stage, r: Expr) -> None:
    """It lets go of one block after the other."""
    x.when(blocks(r) >= 1)
    for release in RELEASES:
        x.helpful(release, r, x.cover.one_of(blocks, r))


@stage(it_was_retracted, c=(Copy, lambda p, r: p.one_of(inbound, r)))
def peers_still_write_for_it(x: Stage, r: Expr, c: Expr) -> None:
    """A peer ends, and what it wrote is dropped."""
    x.when(request_of(c, r))
    x.rank(one_if(copying(c)))
    x.helpful("copy_done", c)
    x.helpful("receive_dropped", c, r, x.cover.one_of(copy_blocks, c))


@stage(it_was_retracted)
def it_can_be_queued_again(x: Stage, r: Expr) -> None:
    """It is queued again."""
    x.when((blocks(r) == 0) & (inbound(r) == 0))
    x.helpful("requeue", r)


@stage(the_oldest_request)
def it_waits(x: Stage, r: Expr) -> None:
    """It is admitted."""
    x.when(request_state(r) == R.WAITING)
    x.helpful("admit", r)


@stage(the_oldest_request, c=(Copy, lambda p, r: p.one_of(inbound, r)))
def peers_write_its_prompt(x: Stage, r: Expr, c: Expr) -> None:
    """A peer ends, and its tokens count."""
    x.when(running(r) & request_of(c, r))
    x.rank(one_if(copying(c)))
    b = x.cover.one_of(copy_blocks, c)
    x.helpful("copy_done", c)
    x.helpful("receive_done", c, r, b)
    x.helpful("receive_failed", c, r, b)


# The oldest request runs.


@stage(the_oldest_request, s=(Step, lambda p, r: p.one_of(pending, r)))
def it_is_in_a_step(x: Stage, r: Expr, s: Expr) -> None:
    """Its row lands."""
    x.when(running(r) & in_step(s, r))
    x.rank(number(s) - landed())


pipeline(it_is_in_a_step)


def between_steps(r: Expr) -> Expr:
    """The request runs, is in no step, and receives nothing."""
    return running(r) & (pending(r) == 0) & (inbound(r) == 0)


@stage(the_oldest_request)
def it_has_all_its_output(x: Stage, r: Expr) -> None:
    """It finishes."""
    x.when(between_steps(r) & (known(r) == limit(r)))
    x.helpful("finish", r)


@stage(the_oldest_request)
def it_has_room(x: Stage, r: Expr) -> None:
    """It gets a row in the step that is planned, or in the next."""
    x.when(between_steps(r) & (known(r) < limit(r)) & (planned(r) < end_of_table(r)))
    x.rank(one_if(opened() == launched()), if_else(opened() == launched(), opened() - landed(), 0))
    x.contract(
        "no step leaves without the oldest",
        "While the oldest request has room for a token, is in no step and receives nothing, no step is launched.",
        ~taken("launch"),
    )


@stage(it_has_room)
def a_step_is_planned(x: Stage, r: Expr) -> None:
    """It joins the step."""
    x.when(launched() < opened())
    planned_step = x.cover.covering(live_steps, opened())
    for join in ("prefill", "prefill_last", "decode"):
        x.helpful(join, planned_step, r, 1)


@stage(it_has_room)
def no_step_is_live(x: Stage, r: Expr) -> None:
    """A step is opened."""
    x.when((opened() == launched()) & (opened() == landed()))
    x.helpful("open_step", x.cover.any(Step))


@stage(it_has_room)
def all_steps_are_launched(x: Stage, r: Expr) -> None:
    """A step lands, or the next is opened before."""
    x.when((opened() == launched()) & (landed() < opened()))


pipeline(all_steps_are_launched)
