"""Exact times of small scenes: when the host plans, when the device runs, and when tokens count."""

from __future__ import annotations

from typing import Any

import pytest

from tokenspeed.simulator.cost.protocol import StepRows
from tokenspeed.simulator.recording.recorder import Recording
from tokenspeed.simulator.workload.page_hashes import NO_HASHES, numbered_blocks
from tokenspeed.simulator.workload.workload import Call, Dependency, Session, Workload
from tokenspeed.simulator.world.cluster import Cluster
from tokenspeed.simulator.world.simulation import simulate

BLOCK = 16
DEVICE, HOST = 100, 30


class FixedCost:
    """Every step takes DEVICE nanoseconds, and 1 more for each prefill token."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def step_ns(self, step: StepRows, /) -> int:
        self.seen.append((step.rows, step.tokens, step.decode_rows, step.context_tokens, step.attention_pairs))
        return DEVICE + step.tokens - step.decode_rows

    def step_parts(self, step: StepRows, /) -> dict[str, float]:
        return {"all": float(self.step_ns(step))}

    def describe(self) -> dict[str, Any]:
        return {"kind": "fixed"}


def run(calls: list[Call], starts: list[int] | None = None, **settings: Any) -> tuple[Recording, FixedCost]:
    cost = FixedCost()
    defaults = {"replicas": 1, "num_blocks": 1000, "max_running": 8, "max_step_tokens": 64, "overlap_depth": 1}
    cluster = Cluster(cost=cost, host_step_ns=HOST, **{**defaults, **settings})
    if starts is None:
        sessions = [Session("s", 0, range(len(calls)))]
        return simulate(Workload("w", BLOCK, sessions, calls, 1), cluster), cost
    sessions = [Session(f"s{n}", start, range(n, n + 1)) for n, start in enumerate(starts)]
    return simulate(Workload("w", BLOCK, sessions, calls, None), cluster), cost


def call(index: int, prompt: int, output: int, session: int = 0, **more: Any) -> Call:
    return Call(index, session, 0, prompt, output, more.pop("page_hashes", NO_HASHES), **more)


@pytest.mark.parametrize(("depth", "period"), [(0, HOST + DEVICE), (1, DEVICE)])
def test_overlap_hides_the_host(depth: int, period: int) -> None:
    recording, _ = run([call(0, 10, 5)], overlap_depth=depth)
    first = HOST + DEVICE + 10
    assert recording.first_token_ns.tolist() == [first]
    assert recording.finish_ns.tolist() == [first + 4 * period]
    assert recording.steps["start_ns"].tolist() == [HOST, *(first + n * period - DEVICE for n in range(1, 5))]


def test_a_slow_host_is_not_hidden() -> None:
    cost = FixedCost()
    cluster = Cluster(1, cost, 1000, 8, 64, 1, host_step_ns=500)
    work = Workload("w", BLOCK, [Session("s", 0, range(1))], [call(0, 10, 5)], 1)
    starts = simulate(work, cluster).steps["start_ns"].tolist()
    # The host plans one step after the other, 500 ns each; the device waits for it.
    assert starts == [500, 1000, 1500, 2000, 2500]


def test_a_prompt_longer_than_the_budget_takes_several_steps() -> None:
    recording, cost = run([call(0, 150, 1)])
    assert [step[1] for step in cost.seen] == [64, 64, 22]
    assert recording.first_token_ns.tolist() == [HOST + 3 * DEVICE + 150]
    assert recording.finish_ns.tolist() == recording.first_token_ns.tolist()
    assert [step[3] for step in cost.seen] == [64, 128, 150]
    assert [step[4] for step in cost.seen] == [64 * 65 // 2, 64 * 64 + 64 * 65 // 2, 22 * 128 + 22 * 23 // 2]


def test_an_arrival_during_a_step_joins_the_next_planned_one() -> None:
    late = HOST + 50
    recording, cost = run([call(0, 10, 20, session=0), call(1, 20, 3, session=1)], starts=[0, late])
    # When call 1 arrives, step 1 runs and step 2 is planned: it joins step 3, which is planned when step 1 lands.
    assert [step[0] for step in cost.seen][:3] == [1, 1, 2]
    assert recording.admitted_ns.tolist() == [0, HOST + DEVICE + 10]
    assert recording.first_token_ns[1] == HOST + (DEVICE + 10) + DEVICE + (DEVICE + 20)


def test_arrivals_of_one_instant_share_a_step() -> None:
    _, cost = run([call(0, 10, 1, session=0), call(1, 20, 1, session=1)], starts=[7, 7])
    assert [step[:2] for step in cost.seen] == [(2, 30)]


def test_think_time_counts_from_the_answer() -> None:
    recording, _ = run([call(0, 10, 2), call(1, 10, 1, after=(Dependency(0, 5_000),))])
    assert recording.arrival_ns.tolist() == [0, recording.finish_ns[0] + 5_000]


def test_the_next_turn_reuses_prompt_and_answer() -> None:
    text = numbered_blocks(1, 0, 20)
    calls = [
        call(0, 40, 24, page_hashes=text[:4]),
        call(1, 100, 1, page_hashes=text[:6], after=(Dependency(0, 0),)),
    ]
    recording, cost = run(calls)
    # 40 + 24 tokens fill 4 blocks, but the last token's KV is never computed: 3 full blocks are there to be reused.
    assert recording.hit_tokens.tolist() == [0, 48]
    assert cost.seen[-1][:2] == (1, 52)


def test_a_rejected_call_does_not_stop_its_session() -> None:
    recording, _ = run([call(0, 5000, 10), call(1, 10, 2, after=(Dependency(0, 11),))], num_blocks=100)
    assert list(recording.rejected) == [0]
    assert recording.arrival_ns.tolist() == [0, 11]
    assert recording.finish_ns[1] > 11


def test_new_sessions_go_to_the_least_loaded_replica() -> None:
    calls = [call(n, 10, 50, session=n) for n in range(5)]
    recording, _ = run(calls, starts=[0, 1, 2, 3, 4], replicas=3)
    assert recording.replica.tolist() == [0, 1, 2, 0, 1]


def test_retractions_are_counted_and_change_no_answer() -> None:
    calls = [call(n, 64, 100, session=n) for n in range(4)]
    recording, _ = run(calls, starts=[0] * 4, num_blocks=16)
    assert recording.retractions.sum() > 0
    assert recording.output_tokens.tolist() == [100] * 4
    assert recording.retractions[0] == 0  # the oldest is never taken back


def test_a_replica_whose_calls_have_ended_is_least_loaded_again() -> None:
    calls = [call(0, 10, 100, session=0), call(1, 10, 1, session=1), call(2, 10, 1, session=2)]
    recording, _ = run(calls, starts=[0, 1, 5_000], replicas=2)
    assert recording.finish_ns[1] < 5_000 < recording.finish_ns[0]
    assert recording.replica.tolist() == [0, 1, 1]


def test_an_arrival_is_planned_at_once_if_no_next_step_is() -> None:
    late = HOST + 50
    recording, _ = run([call(0, 10, 1, session=0), call(1, 20, 1, session=1)], starts=[0, late])
    # Step 1 ends call 0, so nothing was planned behind it: the host plans while it runs.
    assert recording.admitted_ns[1] == late
    assert recording.steps["start_ns"].tolist() == [HOST, HOST + DEVICE + 10]
