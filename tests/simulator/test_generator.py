"""Generated sessions follow their profile, depend on the seed alone, and share exactly the prefixes they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.simulator.errors import ConfigurationError
from tokenspeed.simulator.workload.distributions import Quantiles, Uniform
from tokenspeed.simulator.workload.generator import generate
from tokenspeed.simulator.workload.options import WorkloadOptions
from tokenspeed.simulator.workload.presets import CLAUDE_CODE, PRESETS, SWE_AGENT
from tokenspeed.simulator.workload.workload import Workload

S = 1_000_000_000


def options(**changes: Any) -> WorkloadOptions:
    return WorkloadOptions(**{"block_size": 64, "limit": 100, "think_cap_ns": 60 * S, "concurrency": None, **changes})


def contents(work: Workload, sessions: int) -> list[Any]:
    stop = work.sessions[sessions - 1].calls.stop
    return [(c.prompt_tokens, c.output_tokens, c.after, c.page_hashes.tolist()) for c in work.calls[:stop]]


def growths(work: Workload) -> list[int]:
    return [b.prompt_tokens - a.prompt_tokens for a, b in pairwise(work.calls) if a.session == b.session]


def test_swe_agent_is_what_its_name_promises() -> None:
    work = generate(SWE_AGENT, 0, options(limit=300))
    firsts = [work.calls[s.calls.start].prompt_tokens for s in work.sessions]
    assert min(firsts) >= 49_000 and max(firsts) <= 51_000
    turns = [len(s.calls) for s in work.sessions]
    assert set(turns) == set(range(10, 16))
    assert 750 <= float(np.mean(growths(work))) <= 900
    assert max(c.output_tokens for c in work.calls) <= 500


def test_claude_code_follows_the_recorded_statistics() -> None:
    """Recorded: prompts p50 104k (limited to 200k here), outputs p50 216 and p90 898, growth p50 664, turns p50 44."""
    work = generate(CLAUDE_CODE, 0, options(limit=400))
    assert 80_000 <= np.median([c.prompt_tokens for c in work.calls]) <= 125_000
    assert max(c.prompt_tokens for c in work.calls) <= CLAUDE_CODE.context_limit
    outputs = [c.output_tokens for c in work.calls]
    assert np.quantile(outputs, [0.5, 0.9]) == pytest.approx([216, 898], rel=0.1)
    assert np.median([g for g in growths(work) if g > 0]) == pytest.approx(664, rel=0.2)
    assert np.median([len(s.calls) for s in work.sessions]) == pytest.approx(44, rel=0.25)


@pytest.mark.parametrize("profile", PRESETS.values(), ids=PRESETS)
def test_a_seed_gives_one_workload(profile: Any) -> None:
    assert contents(generate(profile, 7, options(limit=6)), 6) == contents(generate(profile, 7, options(limit=6)), 6)
    assert contents(generate(profile, 7, options(limit=6)), 6) != contents(generate(profile, 8, options(limit=6)), 6)


def test_more_sessions_do_not_change_the_first_ones() -> None:
    assert contents(generate(SWE_AGENT, 3, options(limit=4)), 4) == contents(
        generate(SWE_AGENT, 3, options(limit=9)), 4
    )


@pytest.mark.parametrize("block_size", [16, 64, 100])
def test_prompts_share_the_system_prefix_and_their_history(block_size: int) -> None:
    work = generate(SWE_AGENT, 1, options(limit=3, block_size=block_size))
    shared = SWE_AGENT.system_tokens // block_size
    by_session = [[work.calls[i].page_hashes for i in s.calls] for s in work.sessions]
    for one, other in pairwise(by_session):
        assert one[0][:shared].tolist() == other[0][:shared].tolist()
        assert set(one[0][shared:].tolist()).isdisjoint(other[0][shared:].tolist())
    for calls in by_session:
        for before, after in pairwise(calls):
            assert after[: len(before)].tolist() == before.tolist()  # the answer's blocks are part of the next prompt
    for call in work.calls:
        last = call.index == work.sessions[call.session].calls[-1]
        named = call.prompt_tokens if last else call.prompt_tokens + call.output_tokens
        assert len(call.page_hashes) == named // block_size


def test_a_rewrite_keeps_only_the_system_prefix() -> None:
    profile = replace(SWE_AGENT, rewrite_probability=1.0)
    work = generate(profile, 0, options(limit=1))
    shared = profile.system_tokens // 64
    for a, b in pairwise(work.calls):
        assert a.page_hashes[:shared].tolist() == b.page_hashes[:shared].tolist()
        assert set(a.page_hashes[shared:].tolist()).isdisjoint(b.page_hashes[shared:].tolist())


def test_prompts_stay_below_the_context_limit() -> None:
    profile = replace(SWE_AGENT, context_limit=52_000)
    work = generate(profile, 0, options(limit=20))
    assert max(c.prompt_tokens for c in work.calls) <= 52_000
    assert any(growth < 0 for growth in growths(work))


def test_pauses_are_capped_and_sessions_staggered() -> None:
    work = generate(CLAUDE_CODE, 0, options(limit=20, think_cap_ns=5 * S, concurrency=3))
    assert max(d.delay_ns for c in work.calls for d in c.after) == 5 * S
    assert [s.start_ns for s in work.sessions][:5] == [0, 2 * S, 4 * S, 4 * S, 4 * S]
    assert work.concurrency == 3


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_quantiles_are_monotone_and_stay_in_range(a: float, b: float) -> None:
    distribution = Quantiles(((0.0, 2.0), (0.3, 2.0), (0.9, 50.0), (1.0, 1000.0)))
    low, high = sorted((a, b))
    assert 2.0 <= distribution.sample(low) <= distribution.sample(high) * (1 + 1e-12) <= 1000.0 * (1 + 1e-9)


def test_quantiles_hit_their_points() -> None:
    distribution = Quantiles(((0.0, 1.0), (0.5, 10.0), (1.0, 1000.0)))
    assert [distribution.sample(u) for u in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([1.0, 10**0.5, 10.0, 100.0])


@pytest.mark.parametrize(
    "points",
    [
        ((0.0, 1.0),),
        ((0.1, 1.0), (1.0, 2.0)),
        ((0.0, 1.0), (0.9, 2.0)),
        ((0.0, 0.0), (1.0, 2.0)),
        ((0.0, 3.0), (1.0, 2.0)),
    ],
)
def test_impossible_quantiles_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ConfigurationError, match="points have"):
        Quantiles(points)


def test_impossible_uniform_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="least is 2"):
        Uniform(2, 1)
