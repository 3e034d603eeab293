"""What `tokenspeed-scheduler` 0.1.8 to 0.1.42 was seen to get wrong, as tests of this scheduler.

Each docstring says what was measured there. Errors for phantom, double and unknown results are in test_misuse.py; that
prompts in the waiting line are not hashed and matched again in every step is in test_work_of_a_step.py.
"""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pytest

from tokenspeed.scheduler import CHECKED, EventKind, Scheduler, SchedulerConfig, StepPlan, UnknownStep


def prompt(length: int, seed: int) -> np.ndarray:
    """Tokens that share no prefix with those of another seed."""
    return np.concatenate([[100_000 + seed], np.arange(1, length)]).astype(np.int32)


def results(plan: StepPlan, token: int = 7) -> np.ndarray:
    return np.full(plan.sampling_rows, token, dtype=np.int32)


def run(scheduler: Scheduler, steps: int = 20_000) -> tuple[list[tuple[int, int, int]], Counter[int]]:
    """Drive until nothing is left to do: the events, and how many tokens each request was given."""
    events: list[tuple[int, int, int]] = []
    in_flight, given = deque[StepPlan](), Counter[int]()
    for _ in range(steps):
        plan = scheduler.plan()
        if plan is not None:
            in_flight.append(plan)
            given.update(plan.request_ids[plan.outputs > 0].tolist())
        if in_flight and (plan is None or len(in_flight) > scheduler.config.overlap_depth):
            oldest = in_flight.popleft()
            scheduler.land(oldest.step, results(oldest))
        elif plan is None:
            return events, given
        events += scheduler.events()
    raise AssertionError("it does not come to an end")


def finished(events: list[tuple[int, int, int]]) -> dict[int, int]:
    return {request: value for kind, request, value in events if kind == EventKind.FINISHED}


@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
@pytest.mark.parametrize("block_size", [1, 3, 4])
def test_whatever_is_retracted_fits_again(overlap_depth: int, block_size: int) -> None:
    """0.1.8 aborted the process on 25 of 220 legal runs: a request that was retracted at 255 of 256 tokens needed a
    reserve on top when it came back. Here every request may fill the pool alone, and is retracted at every length."""
    num_blocks = 10
    room = num_blocks * block_size
    retracted_at = set[int]()
    for older in range(1, room):
        for gap in (2, 3):
            younger = max(1, room - older - gap * block_size)
            scheduler = Scheduler(
                SchedulerConfig(
                    num_blocks=num_blocks,
                    block_size=block_size,
                    max_running=2,
                    max_step_tokens=room,
                    overlap_depth=overlap_depth,
                )
            )
            wanted = {}
            for request, size in enumerate((older, younger)):
                wanted[request] = room - size + 1  # the last output token needs no KV: exactly the pool
                assert scheduler.submit(request, prompt(size, request), wanted[request])
            events, _ = run(scheduler)
            assert finished(events) == wanted
            retracted_at.update(value for kind, _, value in events if kind == EventKind.RETRACTED)
            assert scheduler.stats().aborted == 0, "a blocked admission ended running requests in 0.1.42"
            scheduler.check()
    assert len(retracted_at) > 5 and max(retracted_at) >= room - 3 * block_size, sorted(retracted_at)


@pytest.mark.parametrize("overlap_depth", [1, 2])
def test_results_of_a_request_that_finished_meanwhile_stall_nobody(overlap_depth: int) -> None:
    """From 0.1.34 on, pages of a finished request were kept until a result for it was reported, which released drivers
    did not do: 5 of 5 overlapped runs stalled. Here results belong to steps, and a step lands as a whole."""
    scheduler = Scheduler(
        SchedulerConfig(num_blocks=8, block_size=4, max_running=2, max_step_tokens=16, overlap_depth=overlap_depth)
    )
    for request in range(20):
        assert scheduler.submit(request, prompt(9, request), 20)
    in_flight, ended, steps = deque[StepPlan](), set[int](), 0
    while len(ended) < 20:
        plan = scheduler.plan()
        if plan is not None:
            in_flight.append(plan)
        if plan is None or len(in_flight) > overlap_depth:
            oldest = in_flight.popleft()
            # Everyone stops at once, while later steps that contain it are in flight.
            scheduler.land(oldest.step, results(oldest), stop=np.ones(oldest.sampling_rows, dtype=bool))
        ended |= finished(scheduler.events()).keys()
        steps += 1
        assert steps < 1000
    while in_flight:
        oldest = in_flight.popleft()
        scheduler.land(oldest.step, results(oldest))
    stats = scheduler.stats()
    assert (stats.held_blocks, stats.live_requests, stats.output_tokens) == (0, 0, 20)


def test_a_result_without_a_step_in_flight_is_refused_and_the_next_step_is_right() -> None:
    """0.1.8 took 15 tokens that nobody had computed and then planned a wrong input; 0.1.42 ended the process."""
    scheduler = Scheduler(SchedulerConfig(num_blocks=16, block_size=4, max_running=2, overlap_depth=0))
    scheduler.submit(1, prompt(6, 1), 10)
    first = scheduler.plan()
    assert first is not None
    scheduler.land(first.step, results(first, token=50))
    for step in (first.step, first.step + 1):
        with pytest.raises(UnknownStep):
            scheduler.land(step, np.array([51], dtype=np.int32))
    second = scheduler.plan()
    assert second is not None
    assert (second.input_ids.tolist(), second.positions.tolist()) == ([50], [6])


def test_ids_do_not_order_the_waiting_line() -> None:
    """0.1.8 ordered by the id as a string: an early request waited 200 rounds while 200 later ones finished."""
    scheduler = Scheduler(SchedulerConfig(num_blocks=16, block_size=4, max_running=1, overlap_depth=0))
    early, later = 999, iter(range(100, 300))
    scheduler.submit(next(later), prompt(4, 0), 1)
    scheduler.submit(early, prompt(4, 1), 1)
    admitted: list[int] = []
    for request in later:
        scheduler.submit(request, prompt(4, request), 1)  # the line never gets empty
        plan = scheduler.plan()
        assert plan is not None
        scheduler.land(plan.step, results(plan))
        admitted += [r for kind, r, _ in scheduler.events() if kind == EventKind.ADMITTED]
    assert admitted == [100, early, *range(101, 298)]


@pytest.mark.skipif(CHECKED, reason="takes minutes where the pool is recounted after every transition")
def test_prompts_that_fill_the_budget_do_not_starve_decoding() -> None:
    """With its defaults, two running requests got a token in 0 of 298 rounds in which such a prompt arrived."""
    config = SchedulerConfig(num_blocks=4096)  # everything else as it is by default
    scheduler = Scheduler(config)
    for request in (1, 2):
        scheduler.submit(request, prompt(64, request), 400)
    in_flight, decoded = deque[StepPlan](), Counter[int]()
    while len(decoded) < 2:  # both have their first token
        plan = scheduler.plan()
        assert plan is not None
        scheduler.land(plan.step, results(plan))
        decoded.update(plan.request_ids[plan.outputs > 0].tolist())
    decoded.clear()
    for round_number in range(298):
        scheduler.submit(1000 + round_number, prompt(config.max_step_tokens, 1000 + round_number), 1)
        plan = scheduler.plan()
        assert plan is not None
        assert plan.tokens == config.max_step_tokens, "what decoding leaves goes to the prompts"
        decoded.update(r for r in plan.request_ids[plan.num_tokens == 1].tolist() if r in (1, 2))
        in_flight.append(plan)
        if len(in_flight) > config.overlap_depth:
            oldest = in_flight.popleft()
            scheduler.land(oldest.step, results(oldest))
    assert decoded == {1: 298, 2: 298}


@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
def test_nobody_decodes_past_its_limit_in_a_full_pool(overlap_depth: int) -> None:
    """0.1.8 ended the process there, 0.1.42 planned nothing any more."""
    scheduler = Scheduler(
        SchedulerConfig(num_blocks=9, block_size=4, max_running=3, max_step_tokens=16, overlap_depth=overlap_depth)
    )
    wanted = {request: 36 - 9 + 1 for request in range(3)}  # each to the last token of the pool
    for request, most in wanted.items():
        assert scheduler.submit(request, prompt(9, request), most)
    events, given = run(scheduler)
    assert finished(events) == wanted
    assert scheduler.plan() is None
    assert all(given[request] >= most for request, most in wanted.items())
    assert scheduler.stats().output_tokens == sum(wanted.values()), "no result beyond the limit was taken"
