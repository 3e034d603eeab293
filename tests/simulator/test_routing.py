"""Routers: who serves a call, with ties that prefer nobody, and what a failure or a drain does to sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.simulator.cost.roofline import roofline
from tokenspeed.simulator.errors import ConfigurationError
from tokenspeed.simulator.hardware.deployment import Deployment
from tokenspeed.simulator.hardware.gpus import find_gpu
from tokenspeed.simulator.hardware.model_shapes import find_model
from tokenspeed.simulator.hardware.precision import Precision
from tokenspeed.simulator.recording.recorder import NEVER, Recording
from tokenspeed.simulator.routing import ROUTERS, ReplicaView
from tokenspeed.simulator.workload.page_hashes import numbered_blocks
from tokenspeed.simulator.workload.workload import Call, Dependency, Session, Workload
from tokenspeed.simulator.world.cluster import Cluster
from tokenspeed.simulator.world.dispatcher import Outage, OutageKind, parse_outage
from tokenspeed.simulator.world.simulation import simulate

S = 1_000_000_000
BLOCK = 16
COST = roofline(Deployment(find_model("llama-3-8b"), find_gpu("h100"), 1, Precision.BF16, Precision.BF16))


def sessions(count: int, turns: int, think_s: float, gap_s: float = 1.0, shared: bool = False) -> Workload:
    """Sessions that start `gap_s` apart; every turn repeats the one before and adds 100 tokens, 20 of them answered."""
    calls: list[Call] = []
    made: list[Session] = []
    for number in range(count):
        first = len(calls)
        text = numbered_blocks(0 if shared else number + 1, 0, 200)
        for turn in range(turns):
            prompt = 2000 + 100 * turn
            after = (Dependency(first + turn - 1, int(think_s * S)),) if turn else ()
            calls.append(Call(first + turn, number, turn, prompt, 20, text[: (prompt + 20) // BLOCK], after))
        made.append(Session(f"s{number}", int(number * gap_s * S), range(first, len(calls))))
    return Workload("sessions", BLOCK, made, calls, None)


def cluster(**settings: object) -> Cluster:
    given = {"replicas": 8, "num_blocks": 4000, "max_running": 64, "max_step_tokens": 2048, "overlap_depth": 1}
    return Cluster(cost=COST, **{**given, **settings})  # type: ignore[arg-type]


def homes(workload: Workload, run: Recording) -> Counter[int]:
    """Sessions by the replica of their first call."""
    return Counter(int(run.replica[session.calls.start]) for session in workload.sessions)


def test_thinking_sessions_are_not_piled_on_one_replica() -> None:
    """While all think no call is live anywhere: sixteen sessions on eight replicas are two each, not sixteen on one."""
    work = sessions(16, turns=3, think_s=30)
    assert homes(work, simulate(work, cluster())) == dict.fromkeys(range(8), 2)


@pytest.mark.parametrize("router", ["round-robin", "least-load", "prefix"])
def test_no_router_prefers_a_replica_when_all_are_idle(router: str) -> None:
    """Sessions that have nothing in common, far apart: every replica gets its share."""
    work = sessions(24, turns=1, think_s=0, gap_s=30)
    assert set(homes(work, simulate(work, cluster(router=router))).values()) == {3}


def test_the_prefix_router_finds_what_the_others_lose() -> None:
    work = sessions(7, turns=6, think_s=5, gap_s=0.5)
    hits = {name: int(simulate(work, cluster(router=name)).hit_tokens.sum()) for name in ROUTERS}
    assert hits["prefix"] == hits["session"] > 2 * hits["round-robin"]


def test_the_prefix_router_brings_sessions_together_that_share_a_prompt() -> None:
    work = sessions(8, turns=1, think_s=0, gap_s=30, shared=True)
    assert len(homes(work, simulate(work, cluster(router="prefix")))) == 1
    assert len(homes(work, simulate(work, cluster(router="session")))) == 8


def test_a_router_of_your_own() -> None:
    class Odd:
        needs_kv_events = False

        def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
            return 1 + 2 * (call.session % 2)

    work = sessions(6, turns=2, think_s=1)
    assert homes(work, simulate(work, cluster(router=Odd))) == {1: 3, 3: 3}


def test_a_router_that_answers_nonsense_is_named() -> None:
    class Lost:
        needs_kv_events = False

        def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
            return 99

    with pytest.raises(ConfigurationError, match=r"router Lost chose replica 99 for call 0"):
        simulate(sessions(1, 1, 0), cluster(router=Lost))


def test_an_unknown_router_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="router is 'best'; known routers: session, round-robin"):
        cluster(router="best")


@pytest.mark.parametrize("router", ROUTERS)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_no_outage_loses_a_call(router: str, data: st.DataObject) -> None:
    """Whatever fails or is drained when: every call is answered once, in full, by a replica that was there."""
    work = sessions(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4)), 0.2, gap_s=0.05)
    outages = []
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, 2 * S))
        kind = data.draw(st.sampled_from(OutageKind))
        outages.append(Outage(data.draw(st.integers(0, 2)), start, start + data.draw(st.integers(1, 2 * S)), kind))
    run = simulate(work, cluster(replicas=3, router=router, outages=tuple(outages)))
    assert (run.finish_ns != NEVER).all() and not run.rejected
    assert run.output_tokens.tolist() == [call.output_tokens for call in work.calls]
    steps = run.steps
    for outage in outages:
        if outage.kind is OutageKind.FAILURE:  # nothing that ran at that moment counts
            there = steps["replica"] == outage.replica
            assert not (there & (steps["start_ns"] < outage.start_ns) & (steps["end_ns"] > outage.start_ns)).any()
            gone = (run.replica == outage.replica) & (run.finish_ns > outage.start_ns) & (run.finish_ns < outage.end_ns)
            assert not gone.any()
    again = simulate(work, cluster(replicas=3, router=router, outages=tuple(outages)))
    assert (again.finish_ns == run.finish_ns).all() and (again.restarts == run.restarts).all()


def test_a_failure_sends_calls_again_and_forgets_the_cache_but_a_drain_does_not() -> None:
    work = sessions(2, turns=6, think_s=2, gap_s=0)
    quiet = simulate(work, cluster(replicas=2))
    during = int(quiet.first_token_ns[2] + quiet.arrival_ns[2]) // 2
    failed = simulate(work, cluster(replicas=2, outages=(Outage(0, during, during + S),)))
    assert failed.restarts.sum() == 1 and quiet.restarts.sum() == 0
    drained = simulate(work, cluster(replicas=2, outages=(Outage(0, during, during + S, OutageKind.DRAIN),)))
    assert drained.restarts.sum() == 0 and (drained.finish_ns[:3] == quiet.finish_ns[:3]).all()
    assert failed.hit_tokens.sum() < quiet.hit_tokens.sum()
    assert len(np.unique(failed.replica[:6])) == 2  # the session has moved


def test_calls_wait_while_no_replica_is_there() -> None:
    work = sessions(1, turns=1, think_s=0)
    run = simulate(work, cluster(replicas=1, outages=(Outage(0, 0, 5 * S),)))
    assert run.arrival_ns.tolist() == [0] and run.admitted_ns.tolist() == [5 * S]


def test_outages_are_written_like_this() -> None:
    assert parse_outage("1:0.5-90:drain") == Outage(1, S // 2, 90 * S, OutageKind.DRAIN)
    assert parse_outage("0:30-90").kind is OutageKind.FAILURE
    with pytest.raises(ConfigurationError, match="outage is '1-2'; write REPLICA:FROM-TO"):
        parse_outage("1-2")
    with pytest.raises(ConfigurationError, match="outage of replica 8"):
        cluster(outages=(Outage(8, 0, 1),))
