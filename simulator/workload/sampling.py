"""A random part of a recorded workload, so that a study of a trace has error bars."""

from dataclasses import replace
from random import Random

from ..errors import WorkloadError
from .workload import Call, Dependency, Session, Workload


def sampled(workload: Workload, count: int, seed: int) -> Workload:
    """`count` sessions of `workload`, drawn with `seed` without repetition. The same seed draws the same sessions.

    Where sessions wait for a free place they come in the order in which they were drawn and take over the start times
    of the first ones; where each has its own time they keep their order and times, so that the load falls.
    Raises WorkloadError if there are not as many.
    """
    if not 1 <= count <= len(workload.sessions):
        raise WorkloadError(
            f"sample is {count}; workload {workload.name!r} has {len(workload.sessions)} sessions to draw from"
        )
    drawn = Random(f"sample/{seed}").sample(range(len(workload.sessions)), count)
    if not workload.closed_loop:
        drawn.sort()
    calls: list[Call] = []
    sessions: list[Session] = []
    for position, number in enumerate(drawn):
        old = workload.sessions[number]
        shift = len(calls) - old.calls.start
        for index in old.calls:
            call = workload.calls[index]
            after = tuple(Dependency(d.call + shift, d.delay_ns, d.trigger) for d in call.after)
            calls.append(replace(call, index=index + shift, session=position, after=after))
        start = workload.sessions[position].start_ns if workload.closed_loop else old.start_ns
        sessions.append(Session(old.name, start, range(old.calls.start + shift, old.calls.stop + shift)))
    concurrency = None if workload.concurrency is None else min(workload.concurrency, count)
    return replace(
        workload,
        sessions=sessions,
        calls=calls,
        concurrency=concurrency,
        assumptions={
            **workload.assumptions,
            "Sample": f"{count:,} of {len(workload.sessions):,} sessions, seed {seed}",
        },
        source={**workload.source, "sample": count, "sample_seed": seed},
        chains_checked=True,
    )
