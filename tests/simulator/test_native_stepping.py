"""The native module steps replicas as Python does: the same plans, times and bytes, in random small worlds.

TOKENSPEED_WORLDS=1000 in the environment compares as many.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from tokenspeed.scheduler import PageView, Policy, RequestView, SchedulerConfig
from tokenspeed.simulator import StudySettings
from tokenspeed.simulator.cost.roofline import Roofline, roofline
from tokenspeed.simulator.errors import ConfigurationError, PolicyFailed
from tokenspeed.simulator.policies import PolicyChoice
from tokenspeed.simulator.recording.recorder import Recording
from tokenspeed.simulator.routing import ROUTERS
from tokenspeed.simulator.study.settings import place_model
from tokenspeed.simulator.workload.page_hashes import NO_HASHES, numbered_blocks
from tokenspeed.simulator.workload.workload import Call, Dependency, Session, Trigger, Workload
from tokenspeed.simulator.world.cluster import Cluster
from tokenspeed.simulator.world.dispatcher import Outage, OutageKind
from tokenspeed.simulator.world.native import native_module
from tokenspeed.simulator.world.simulation import Stepping, simulate

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native module does not fit the scheduler loaded")

WORLDS = int(os.environ.get("TOKENSPEED_WORLDS", "120"))
BLOCK = 16
COSTS = [
    roofline(place_model(StudySettings("swe-agent", model=model, gpu=gpu, tp=tp)))
    for model, gpu, tp in (("llama-3-8b", "h100", 1), ("kimi-k2", "b200", 4), ("smollm2-135m", "h200", 1))
]
# Every step takes the same time, so that things coincide.
EVEN = Roofline(**{**dict.fromkeys(Roofline.__slots__, 0.0), "overhead_s": 1e-6, "experts": 0})  # type: ignore[arg-type]
EVEN = replace(EVEN, matmul_flops=1.0, head_flops=1.0, attention_flops=1.0, bandwidth=1.0, expert_bandwidth=1.0)


class OldestShortest(Policy):
    """A policy in Python, with every kind of answer."""

    def place(self, request: RequestView) -> tuple[int, int]:
        return request.prompt_tokens // 100, request.arrival

    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        return request.computed_tokens / (1 + request.blocks)

    def retention(self, page: PageView) -> int:
        return min(page.uses, 3)


POLICIES: list[PolicyChoice] = ["default", "lru", "youngest-victim", "recompute", OldestShortest]


def random_workload(random: Random) -> Workload:
    closed = random.random() < 0.7
    round_times = random.random() < 0.4  # many things of one instant
    calls: list[Call] = []
    sessions: list[Session] = []
    start = 0
    for number in range(random.randint(1, 12)):
        first = len(calls)
        for turn in range(random.randint(1, 5) if closed else 1):
            index = len(calls)
            prompt, output = random.randint(1, 500), random.randint(1, 60)
            hashed = random.randint(0, (prompt + output) // BLOCK)
            hashes = numbered_blocks(random.randint(0, 2), 0, hashed) if hashed else NO_HASHES
            earlier = random.sample(range(first, index), min(index - first, random.randint(0, 2))) if turn else []
            after = tuple(
                Dependency(
                    other,
                    random.choice([0, 0, 1_000, 30_000_000]) if round_times else random.randint(0, 100_000_000),
                    random.choice(list(Trigger)),
                )
                for other in earlier
            )
            calls.append(Call(index, number, turn, prompt, output, hashes, after))
        sessions.append(Session(f"s{number}", start, range(first, len(calls))))
        start += random.choice([0, 0, 1_000]) if round_times else random.randint(0, 20_000_000)
    return Workload("random", BLOCK, sessions, calls, random.randint(1, 6) if closed else None)


def random_cluster(random: Random) -> Cluster:
    running = random.randint(1, 8)
    replicas = random.randint(1, 4)
    outages = []
    for _ in range(random.choice([0, 0, 1, 3])):
        begin = random.randint(0, 300_000_000)
        end = begin + random.randint(1, 300_000_000)
        outages.append(Outage(random.randrange(replicas), begin, end, random.choice(list(OutageKind))))
    return Cluster(
        replicas=replicas,
        cost=random.choice([*COSTS, EVEN]),
        num_blocks=random.choice([12, 30, 100, 1000]),
        max_running=running,
        max_step_tokens=random.randint(max(running, 8), 300),
        overlap_depth=random.randint(0, 1),
        host_step_ns=random.choice([0, 1_000, 500_000]),
        num_host_blocks=random.choice([0, 0, 8, 200]),
        host_copy_tokens_per_s=random.choice([1e3, 1e5, 1e8]),
        policy=random.choice(POLICIES),
        router=random.choice(list(ROUTERS)),
        max_context=random.choice([None, 400]),
        outages=tuple(outages),
    )


def everything(run: Recording) -> dict[str, list[int] | dict[int, str]]:
    columns = {name: getattr(run, name) for name in Recording.__slots__}
    said = {name: column.tolist() for name, column in columns.items() if isinstance(column, np.ndarray)}
    said |= {f"run {name}": column.tolist() for name, column in run.step_runs.runs.items()}
    return said | {"durations": run.step_runs.durations_ns.tolist(), "rejected": run.rejected}


@pytest.mark.parametrize("chunk", range(8))
def test_both_ways_to_step_give_the_same_recording(chunk: int) -> None:
    for world in range(chunk, WORLDS, 8):
        random = Random(f"world {world}")
        work, cluster = random_workload(random), random_cluster(random)
        slow, fast = (simulate(work, cluster, stepping=how) for how in (Stepping.PYTHON, Stepping.NATIVE))
        assert everything(slow) == everything(fast), f"world {world}"


def test_the_worlds_are_worth_comparing() -> None:
    seen: Counter[str] = Counter()
    for world in range(WORLDS):
        random = Random(f"world {world}")
        run = simulate(random_workload(random), random_cluster(random), stepping=Stepping.NATIVE)
        seen["steps"] += len(run.step_runs)
        seen["retractions"] += int(run.retractions.sum())
        seen["restarts"] += int(run.restarts.sum())
        seen["rejections"] += len(run.rejected)
        seen["fetches"] += int((run.host_hit_tokens > 0).sum())
        seen["hits"] += int((run.hit_tokens > 0).sum())
    assert seen["steps"] > 100 * WORLDS and len(seen) == 6 and all(seen.values()), seen


def test_a_policy_that_fails_stops_native_stepping_too() -> None:
    class Breaks(Policy):
        def retention(self, page: PageView) -> int:
            raise LookupError("no such page")

    work = random_workload(Random("closed"))
    cluster = replace(random_cluster(Random(1)), policy=Breaks, num_blocks=100, max_context=None, outages=())
    for how in Stepping:
        with pytest.raises(PolicyFailed, match="policy Breaks: retention raised LookupError: no such page"):
            simulate(work, cluster, stepping=how)


def test_what_cannot_be_stepped_natively_says_why() -> None:
    class Mine(Roofline):
        __slots__ = ()

    work, cluster = random_workload(Random(0)), random_cluster(Random(0))
    odd = replace(cluster, cost=Mine(**{name: getattr(EVEN, name) for name in Roofline.__slots__}))
    with pytest.raises(ConfigurationError, match="cannot be stepped natively: its cost model is not a roofline"):
        simulate(work, odd, stepping=Stepping.NATIVE)
    assert simulate(work, odd).num_blocks == cluster.num_blocks


@pytest.mark.parametrize("cost", COSTS)
def test_both_rooflines_are_equal_to_the_nanosecond(cost: Roofline) -> None:
    """Durations of whole simulations with long contexts and mixed steps, step by step."""
    random = Random("lengths")
    calls = [Call(n, n, 0, random.randint(1, 40_000), random.randint(1, 30), NO_HASHES) for n in range(24)]
    sessions = [Session(f"s{n}", n * 10_000_000, range(n, n + 1)) for n in range(24)]
    work = Workload("long", 64, sessions, calls, None)
    cluster = Cluster(1, cost, 20_000, max_running=16, max_step_tokens=2_048, overlap_depth=1)
    slow, fast = (simulate(work, cluster, stepping=how) for how in (Stepping.PYTHON, Stepping.NATIVE))
    assert slow.step_runs.durations_ns.tolist() == fast.step_runs.durations_ns.tolist()
    assert (fast.steps["tokens"] > fast.steps["decode_rows"]).any()
