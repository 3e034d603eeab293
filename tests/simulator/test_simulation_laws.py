"""Laws of every simulation, over random workloads and clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.simulator.cost.roofline import Roofline, roofline
from tokenspeed.simulator.errors import ConfigurationError
from tokenspeed.simulator.hardware.deployment import Deployment
from tokenspeed.simulator.hardware.gpus import find_gpu
from tokenspeed.simulator.hardware.model_shapes import find_model
from tokenspeed.simulator.hardware.precision import Precision
from tokenspeed.simulator.recording.recorder import NEVER, Recording
from tokenspeed.simulator.workload.page_hashes import NO_HASHES, numbered_blocks
from tokenspeed.simulator.workload.workload import Call, Dependency, Session, Trigger, Workload
from tokenspeed.simulator.world.cluster import Cluster
from tokenspeed.simulator.world.simulation import simulate

BLOCK = 16
COST: Roofline = roofline(Deployment(find_model("llama-3-8b"), find_gpu("h100"), 1, Precision.BF16, Precision.BF16))


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    closed = draw(st.booleans())
    calls: list[Call] = []
    sessions: list[Session] = []
    start = 0
    for session in range(draw(st.integers(1, 6))):
        first = len(calls)
        for turn in range(draw(st.integers(1, 5)) if closed else 1):
            index = len(calls)
            prompt, output = draw(st.integers(1, 400)), draw(st.integers(1, 40))
            hashed = draw(st.integers(0, (prompt + output) // BLOCK))
            # Scope 0 is shared by all: prefixes overlap between sessions and turns.
            hashes = numbered_blocks(draw(st.integers(0, 2)), 0, hashed) if hashed else NO_HASHES
            earlier = draw(st.lists(st.integers(first, index - 1), max_size=2, unique=True)) if turn else []
            after = tuple(
                Dependency(other, draw(st.integers(0, 200_000_000)), draw(st.sampled_from(list(Trigger))))
                for other in earlier
            )
            calls.append(Call(index, session, turn, prompt, output, hashes, after))
        sessions.append(Session(f"s{session}", start, range(first, len(calls))))
        start += draw(st.integers(0, 50_000_000))
    return Workload("random", BLOCK, sessions, calls, draw(st.integers(1, 4)) if closed else None)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    running = draw(st.integers(1, 8))
    return Cluster(
        replicas=draw(st.integers(1, 3)),
        cost=COST,
        num_blocks=draw(st.sampled_from([12, 30, 100, 1000])),
        max_running=running,
        max_step_tokens=draw(st.integers(max(running, 8), 300)),
        overlap_depth=draw(st.integers(0, 1)),
        host_step_ns=draw(st.sampled_from([0, 1_000, 5_000_000])),
        num_host_blocks=draw(st.sampled_from([0, 0, 8, 200])),
        host_copy_tokens_per_s=draw(st.sampled_from([1e3, 1e5, 1e8])),
        policy=draw(st.sampled_from(["default", "lru", "youngest-victim", "recompute"])),
    )


def columns(recording: Recording) -> list[list[int]]:
    named = [getattr(recording, name) for name in Recording.__slots__]
    arrays = [value for value in named if isinstance(value, np.ndarray)] + list(recording.steps.values())
    return [array.tolist() for array in arrays]


@settings(max_examples=150, deadline=None)
@given(workloads(), clusters())
def test_laws(workload: Workload, cluster: Cluster) -> None:
    progress: list[int] = []
    run = simulate(workload, cluster, progress.append)
    calls = workload.calls

    # Conservation: every call ends exactly once, answered in full or rejected.
    assert progress == list(range(1, len(calls) + 1))
    for call in calls:
        rejected = call.index in run.rejected
        assert (run.finish_ns[call.index] == NEVER) == rejected
        assert run.output_tokens[call.index] == (0 if rejected else call.output_tokens)
        stored = call.prompt_tokens + call.output_tokens - 1  # nobody reads the last token's KV
        assert rejected == (-(-stored // BLOCK) > cluster.num_blocks)

    # Time never runs backwards for a call, and no first token comes before its call.
    done = run.finish_ns != NEVER
    assert (run.arrival_ns >= 0).all()
    assert (run.arrival_ns[done] <= run.admitted_ns[done]).all()
    assert (run.admitted_ns[done] <= run.first_token_ns[done]).all()
    assert (run.first_token_ns[done] <= run.finish_ns[done]).all()

    # Prefix hits are whole blocks of the prompt, and at least one token is computed.
    prompts = np.array([call.prompt_tokens for call in calls])
    assert (run.hit_tokens[done] < prompts[done]).all()
    assert (run.hit_tokens % BLOCK == 0).all()
    for call in calls:
        assert run.host_hit_tokens[call.index] <= run.hit_tokens[call.index] <= len(call.page_hashes) * BLOCK

    # Causality: a call starts when the last thing it waits for allows it, neither before nor after.
    ends = np.where(done, run.finish_ns, run.arrival_ns)
    for call in calls:
        if call.after:
            ready = [
                (run.arrival_ns if d.trigger is Trigger.DISPATCH else ends)[d.call] + d.delay_ns for d in call.after
            ]
            assert run.arrival_ns[call.index] == max(ready)

    # The device runs one step at a time; each step holds what it says.
    steps = run.steps
    for replica in range(cluster.replicas):
        mine = steps["replica"] == replica
        assert (steps["start_ns"][mine][1:] >= steps["end_ns"][mine][:-1]).all()
    assert (steps["start_ns"] < steps["end_ns"]).all()
    assert (steps["rows"] <= cluster.max_running).all()
    assert (steps["tokens"] <= cluster.max_step_tokens).all()
    assert (steps["held_blocks"] + steps["cached_blocks"] <= cluster.num_blocks).all()
    assert steps["sampled"].sum() >= run.output_tokens.sum()
    if not run.retractions.any():
        assert steps["tokens"].sum() == (prompts[done] - run.hit_tokens[done] + run.output_tokens[done] - 1).sum()

    # Affinity: a session stays on one replica.
    for session in workload.sessions:
        assert len({int(run.replica[index]) for index in session.calls}) == 1


@settings(max_examples=40, deadline=None)
@given(workloads(), clusters())
def test_the_same_arguments_give_the_same_recording(workload: Workload, cluster: Cluster) -> None:
    first, second = simulate(workload, cluster), simulate(workload, cluster)
    assert columns(first) == columns(second)
    assert first.rejected == second.rejected


@settings(max_examples=60, deadline=None)
@given(workloads(), clusters())
def test_no_more_sessions_are_alive_than_asked_for(workload: Workload, cluster: Cluster) -> None:
    run = simulate(workload, cluster)
    if workload.concurrency is None:
        expected = [session.start_ns for session in workload.sessions]
        assert [int(run.arrival_ns[session.calls[0]]) for session in workload.sessions] == expected
        return
    ends = np.where(run.finish_ns == NEVER, run.arrival_ns, run.finish_ns)
    alive = [(int(run.arrival_ns[list(s.calls)].min()), int(ends[list(s.calls)].max())) for s in workload.sessions]
    for moment, _ in alive:
        assert sum(start <= moment < end for start, end in alive) <= workload.concurrency


def test_a_cluster_that_cannot_work_names_the_setting() -> None:
    work = Workload("w", BLOCK, [Session("s", 0, range(1))], [Call(0, 0, 0, 10, 5, NO_HASHES)], None)
    with pytest.raises(ConfigurationError, match="max_step_tokens"):
        simulate(work, Cluster(1, COST, 100, max_running=64, max_step_tokens=32, overlap_depth=1))
