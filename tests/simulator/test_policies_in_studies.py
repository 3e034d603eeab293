"""A policy of a study never fails in silence, and never remembers another replica or run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tokenspeed.scheduler import PageView, Policy, RequestView, SchedulerConfig
from tokenspeed.simulator import StudySettings, load_workload, run_study
from tokenspeed.simulator.cost.roofline import roofline
from tokenspeed.simulator.errors import ConfigurationError, PolicyFailed
from tokenspeed.simulator.study.settings import place_model
from tokenspeed.simulator.study.study import Study
from tokenspeed.simulator.workload.page_hashes import numbered_blocks
from tokenspeed.simulator.workload.workload import Call, Session, Workload
from tokenspeed.simulator.world.cluster import Cluster
from tokenspeed.simulator.world.simulation import simulate

COST = roofline(place_model(StudySettings("swe-agent")))


def study(policy: Any, replicas: int = 1) -> Study:
    chosen = StudySettings("swe-agent", limit=4, num_blocks=1700, concurrency=4, policy=policy, replicas=replicas)
    return run_study(chosen, load_workload(chosen))


class Typo(Policy):
    def place(self, request: RequestView) -> tuple[int, int]:
        return request.remaining_work, 0  # type: ignore[attr-defined]


class Divides(Policy):
    def retention(self, page: PageView) -> int:
        return page.position // 0


class Words(Policy):
    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        return "cheap"  # type: ignore[return-value]


class TooLong(Policy):
    def retention(self, page: PageView) -> int:
        return 4


def tight(policy: Any) -> None:
    """Four calls on a pool for two: everything that a policy can be asked without a host tier is asked."""
    calls = [Call(n, n, 0, 64, 100, numbered_blocks(n, 0, 10)) for n in range(4)]
    work = Workload("tight", 16, [Session(f"s{n}", 0, range(n, n + 1)) for n in range(4)], calls, None)
    simulate(work, Cluster(1, COST, 16, max_running=8, max_step_tokens=64, overlap_depth=1, policy=policy))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Typo, "policy Typo: place raised AttributeError: .*remaining_work"),
        (Divides, "policy Divides: retention raised ZeroDivisionError"),
        (Words, "policy Words: victim_cost answered 'cheap'; it must answer a number"),
        (TooLong, "policy TooLong: retention answered 4; it must answer an integer from 0 to 3"),
        (lambda: 1 // 0, "policy <lambda> cannot be made: ZeroDivisionError"),
    ],
)
def test_a_policy_that_fails_stops_the_run_with_its_error(policy: Any, message: str) -> None:
    with pytest.raises(PolicyFailed, match=message):
        tight(policy)


def test_the_error_leads_to_where_it_was_raised() -> None:
    with pytest.raises(PolicyFailed) as failed:
        tight(Divides)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


class Counting(Policy):
    """Counts what it is asked; its second life must not remember the first."""

    made: list[Counting] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        Counting.made.append(self)

    def place(self, request: RequestView) -> tuple[int, int]:
        self.asked += 1
        return 0, 0


def test_replicas_and_runs_have_policies_of_their_own() -> None:
    Counting.made.clear()
    first = study(Counting, replicas=2)
    second = study(Counting, replicas=2)
    assert len(Counting.made) == 4
    asked = [policy.asked for policy in Counting.made]
    assert sum(asked[:2]) == len(first.workload.calls) and asked[:2] == asked[2:]
    assert first.metrics == second.metrics
    assert first.settings.policy is Counting


def test_an_object_is_refused_because_it_would_be_shared() -> None:
    with pytest.raises(ConfigurationError, match="policy is the object Counting; give its class"):
        study(Counting())
    with pytest.raises(ConfigurationError, match=re.escape("makes 5, which is no subclass of Policy")):
        study(lambda: 5)
