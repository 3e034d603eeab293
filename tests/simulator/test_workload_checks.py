"""A workload whose parts do not fit together is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from tokenspeed.simulator import ConfigurationError, StudySettings, load_workload, run_study
from tokenspeed.simulator.errors import WorkloadError
from tokenspeed.simulator.workload.page_hashes import NO_HASHES, numbered_blocks
from tokenspeed.simulator.workload.workload import Call, Dependency, Session, Workload

GOOD = (Call(0, 0, 0, 100, 10, NO_HASHES), Call(1, 0, 1, 100, 10, NO_HASHES, (Dependency(0, 5),)))


def workload(calls: tuple[Call, ...] = GOOD, **changes: Any) -> Workload:
    parts: dict[str, Any] = {"sessions": [Session("s", 0, range(len(calls)))], "concurrency": 1, **changes}
    return Workload("w", 64, parts["sessions"], calls, parts["concurrency"])


def test_a_good_one_is_accepted() -> None:
    assert workload().closed_loop
    assert not workload(concurrency=None).closed_loop


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calls": ()}, "has no calls"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"calls": (Call(5, 0, 0, 100, 10, NO_HASHES),)}, "says it is call 5"),
        ({"calls": (Call(0, 0, 0, 0, 10, NO_HASHES),)}, "prompt_tokens 0"),
        ({"calls": (Call(0, 0, 0, 10, 0, NO_HASHES),)}, "output_tokens 0"),
        ({"calls": (Call(0, 0, 0, 60, 5, numbered_blocks(0, 0, 2)),)}, "2 page hashes but only 1 full blocks"),
        ({"calls": (Call(0, 0, 0, 10, 1, NO_HASHES, (Dependency(0, 1),)),)}, "waits for call 0"),
        ({"calls": (GOOD[0], Call(1, 0, 1, 9, 9, NO_HASHES, (Dependency(0, -1),)))}, "delay -1 ns"),
        ({"sessions": [Session("s", 0, range(1))]}, "2 calls but its sessions hold 1"),
        ({"sessions": [Session("s", -1, range(2))]}, "start -1 ns"),
        ({"sessions": [Session("s", 0, range(1, 2))]}, "session 's' has calls range"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkloadError) as error:
        workload(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"limit": 0}, {"concurrency": 0}, {"think_cap": -1.0}, {"think_cap": float("nan")}, {"block_size": 0}]
)
def test_bad_settings_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        load_workload(StudySettings("swe-agent", **changes))


def test_a_workload_for_other_blocks_is_refused() -> None:
    loaded = load_workload(StudySettings("swe-agent", limit=1, block_size=32))
    with pytest.raises(ConfigurationError, match="block_size is 64 but the workload was loaded for 32"):
        run_study(StudySettings("swe-agent", limit=1), loaded)


def test_replicas_must_be_positive() -> None:
    settings = StudySettings("swe-agent", limit=1, replicas=0)
    with pytest.raises(ConfigurationError, match="replicas is 0"):
        run_study(settings, load_workload(settings))
