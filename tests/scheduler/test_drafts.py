"""Draft tokens: whoever drafts, and however badly, the text is the one that comes without drafts."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from support.scheduler_world import Drafter, World, next_token
from tokenspeed.scheduler import BadRequest, BadResults, Scheduler, SchedulerConfig, UnknownRequest


def right(text: list[int], most: int) -> list[int]:
    drafts: list[int] = []
    while len(drafts) < most:
        drafts.append(next_token([*text, *drafts]))
    return drafts


def wrong(text: list[int], most: int) -> list[int]:
    return [(token + 1) % 3 for token in right(text, most)]


def wrong_at(i: int) -> Drafter:
    def drafter(text: list[int], most: int) -> list[int]:
        return [(token + 1) % 3 if at >= i else token for at, token in enumerate(right(text, most))]

    return drafter


def none(text: list[int], most: int) -> list[int]:
    return []


def texts(config: SchedulerConfig, drafter: Drafter | None, seed: int) -> tuple[dict[int, list[int]], World]:
    """What each request says in the end."""
    world = World(config, seed, drafter)
    world.stops = 0
    choose = random.Random(seed)
    for _ in range(8):
        world.submit([choose.randrange(2) for _ in range(choose.randint(1, 9))], choose.randint(1, 20))
        for _ in range(choose.randint(0, 4)):
            world.plan()
            if world.steps:
                world.land()
    world.drain()
    return world.texts, world


@pytest.mark.parametrize("num_blocks", [8, 40])
@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
@pytest.mark.parametrize("drafter", [right, wrong, wrong_at(1), wrong_at(2), none])
def test_every_drafter_gives_the_text_that_comes_without(drafter: Drafter, overlap_depth: int, num_blocks: int) -> None:
    def config(drafts: int) -> SchedulerConfig:
        return SchedulerConfig(
            num_blocks=num_blocks,
            block_size=4,
            max_running=4,
            max_step_tokens=16,
            overlap_depth=overlap_depth,
            max_draft_tokens=drafts,
        )

    for seed in range(2):
        plain, _ = texts(config(0), None, seed)
        drafted, world = texts(config(3), drafter, seed)
        assert drafted == plain
        stats = world.scheduler.stats()
        if drafter is right:
            assert stats.accepted_draft_tokens == stats.draft_tokens > 10
        elif drafter is none:
            assert stats.draft_tokens == 0
        else:
            assert stats.draft_tokens > stats.accepted_draft_tokens
            assert (stats.accepted_draft_tokens > 0) == (drafter is not wrong)


def scheduler(*, budget: int = 8, overlap_depth: int = 0, drafts: int = 3) -> Scheduler:
    return Scheduler(
        SchedulerConfig(
            num_blocks=8,
            block_size=4,
            max_running=2,
            max_step_tokens=budget,
            overlap_depth=overlap_depth,
            max_draft_tokens=drafts,
        )
    )


def decoding(made: Scheduler) -> Scheduler:
    """Request 1 has said 9 and decodes."""
    made.submit(1, [1, 2], 10)
    plan = made.plan()
    assert plan is not None
    made.land(plan.step, [9])
    return made


def test_a_draft_row_in_a_plan_and_what_it_may_land() -> None:
    made = decoding(scheduler())
    made.offer_drafts(1, [5, 6, 7])
    plan = made.plan()
    assert plan is not None
    assert plan.input_ids.tolist() == [9, 5, 6, 7] and plan.positions.tolist() == [2, 3, 4, 5]
    assert plan.outputs.tolist() == [4] and plan.outputs.dtype == np.int32
    assert plan.sampling_rows == plan.decode_rows == 1
    before = made.snapshot()
    for tokens, counts in (([5], [0]), ([5] * 5, [5]), ([5, 6], [1]), ([5], [2]), ([5, 6], None), ([5], [1, 1])):
        with pytest.raises(BadResults):
            made.land(plan.step, tokens, counts)
    with pytest.raises(BadResults, match="counts has dtype"):
        made.land(plan.step, [5], np.array([True]))
    with pytest.raises(BadResults, match="empty; give None"):
        made.land(plan.step, [5], [])
    assert made.snapshot() == before
    made.land(plan.step, [5, 8], [2])
    plan = made.plan()
    assert plan is not None
    assert plan.start.tolist() == [4] and plan.input_ids.tolist() == [8], "what was rejected is computed no more"
    made.land(plan.step, [3], stop=np.array([True]))
    made.check()
    assert made.stats().finished == 1


def test_a_token_that_lands_meanwhile_makes_an_offer_out_of_date() -> None:
    made = decoding(scheduler(overlap_depth=1))
    first = made.plan()
    made.offer_drafts(1, [5])
    assert first is not None and made.plan() is None, "from now on one row at a time"
    made.land(first.step, [4])
    plan = made.plan()
    assert plan is not None and plan.input_ids.tolist() == [4] and plan.outputs.tolist() == [1]


def test_drafts_take_no_budget_from_others_and_stop_at_the_limit() -> None:
    made = scheduler(budget=3)
    for request in (1, 2):
        made.submit(request, [request], 3)
    plan = made.plan()
    assert plan is not None
    made.land(plan.step, [7, 7])
    for request in (1, 2):
        made.offer_drafts(request, [5, 6, 7])
    plan = made.plan()
    assert plan is not None
    assert plan.num_tokens.tolist() == [2, 1], "one token of budget is the other's, and three outputs are the limit"
    made.land(plan.step, [5, 9, 7], [2, 1])
    assert made.stats().finished == 1


CALLS: list[tuple[type[Exception], Callable[[Scheduler], None]]] = [
    (UnknownRequest, lambda s: s.offer_drafts(7, [1])),
    (BadRequest, lambda s: s.offer_drafts(1, [1, 2, 3, 4])),
    (BadRequest, lambda s: s.offer_drafts(1, [-1])),
    (BadRequest, lambda s: s.offer_drafts(1, np.array([0.5]))),
]


@pytest.mark.parametrize(("error", "call"), CALLS)
def test_wrong_offers_are_refused(error: type[Exception], call: Callable[[Scheduler], None]) -> None:
    made = decoding(scheduler())
    before = made.snapshot()
    with pytest.raises(error):
        call(made)
    assert made.snapshot() == before


def test_without_drafts_in_the_configuration_none_are_taken() -> None:
    with pytest.raises(BadRequest, match="max_draft_tokens is 0"):
        decoding(scheduler(drafts=0)).offer_drafts(1, [1])
    with pytest.raises(ValueError, match="max_draft_tokens is 256"):
        scheduler(drafts=256)
