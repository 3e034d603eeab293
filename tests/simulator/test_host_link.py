"""The link to the host: copies take their time, one after the other in each direction."""

from __future__ import annotations

import numpy as np
import pytest

from tokenspeed.scheduler import CopyKind
from tokenspeed.simulator.command import run_simulate
from tokenspeed.simulator.study.metrics import Metrics
from tokenspeed.simulator.study.run import run_study
from tokenspeed.simulator.study.settings import StudySettings, load_workload, place_model
from tokenspeed.simulator.world.clock import Clock
from tokenspeed.simulator.world.host_link import HostLink


class Copies:
    """A batch as the scheduler gives it."""

    def __init__(self, *copies: tuple[int, int, int]) -> None:
        self.ids, self.kinds, self.num_tokens = np.array(copies).T


def test_copies_of_one_direction_follow_one_another() -> None:
    clock = Clock(1)
    done: list[tuple[list[int], int]] = []
    at = lambda time, act: clock.at(time, clock.copying(0), act)  # noqa: E731
    link = HostLink(1e6, at, lambda ids, now: done.append((ids.tolist(), now)))
    link.start(Copies((1, CopyKind.SPILL, 64), (2, CopyKind.FETCH, 16), (3, CopyKind.SPILL, 36)), 0)  # type: ignore[arg-type]
    link.start(Copies((4, CopyKind.FETCH, 4)), 0)  # type: ignore[arg-type]
    clock.environment.run()
    assert done == [([2], 16_000), ([4], 20_000), ([1, 3], 100_000)]
    assert link.busy_ns == {CopyKind.SPILL: 100_000, CopyKind.FETCH: 20_000}


def study(**settings: float | int | str) -> Metrics:
    chosen = StudySettings("swe-agent", limit=8, concurrency=8, num_blocks=3000, **settings)  # type: ignore[arg-type]
    return run_study(chosen, load_workload(chosen)).metrics


def test_a_host_tier_keeps_what_the_device_cannot() -> None:
    without, small, ample = study(), study(host_blocks=1000), study(host_gib=200.0)
    assert without.host_hit_tokens == 0
    assert without.hit_tokens < small.hit_tokens < ample.hit_tokens
    assert 0 < small.host_hit_tokens < ample.host_hit_tokens < ample.hit_tokens
    assert ample.ttft_ms.mean < without.ttft_ms.mean


def test_host_memory_is_shared_out_in_blocks() -> None:
    placed = place_model(StudySettings("swe-agent"))
    per_block = placed.kv_bytes_per_token * placed.tp * 64
    assert placed.host_blocks(1.0, 64) == 2**30 // per_block
    assert placed.host_tokens_per_s == pytest.approx(0.85 * 64e9 / placed.kv_bytes_per_token)


def test_an_unknown_policy_is_an_error_that_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_simulate({"workload": "swe-agent", "limit": 1, "policy": "best"}, None) == 2
    assert "policy is 'best'; known policies: default, lru" in capsys.readouterr().err
