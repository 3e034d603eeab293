"""Times simulations alone (no loading, no report) in CPU seconds, stepped natively and in Python.

    TOKENSPEED_TRACES=FOLDER PYTHONPATH=benchmarks python benchmarks/simulator/speed.py [--both]

Kimi K2 on 4 x B200 for each replica. Prints a line for each case and writes results/speed.json.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from record import write

from tokenspeed.scheduler import Policy, RequestView
from tokenspeed.simulator import StudySettings, load_workload
from tokenspeed.simulator.study.settings import make_cluster, place_model
from tokenspeed.simulator.workload.page_hashes import NO_HASHES
from tokenspeed.simulator.workload.workload import Call, Session, Workload
from tokenspeed.simulator.world.simulation import Stepping, simulate

HERE = Path(__file__).resolve().parent
BATCHES = (1, 16, 64, 256)
LINEAR = (10_000, 100_000, 1_000_000)


class ByAge(Policy):
    """A policy in Python that is asked for every request."""

    def place(self, request: RequestView) -> tuple[int, int]:
        return request.arrival, 0


def decode_only(batch: int, waves: int = 4, tokens: int = 5_000) -> Workload:
    """`batch` requests at once, `waves` after one another; short prompts, so that nearly all steps decode."""
    calls = [Call(n, n, 0, 64, tokens, NO_HASHES) for n in range(batch * waves)]
    sessions = [Session(f"s{n}", 0, range(n, n + 1)) for n in range(batch * waves)]
    return Workload(f"decode only, batch {batch}", 64, sessions, calls, batch)


def open_loop(requests: int) -> Workload:
    """Requests of 200 prompt and 10 output tokens, 2 ms apart."""
    calls = [Call(n, n, 0, 200, 10, NO_HASHES) for n in range(requests)]
    sessions = [Session("r", n * 2_000_000, range(n, n + 1)) for n in range(requests)]
    return Workload(f"open loop, {requests:,} requests", 64, sessions, calls, None)


def cases(folder: Path | None) -> Iterator[tuple[str, Workload, StudySettings]]:
    """(name, workload, settings); settings of a workload made here name none."""
    made = StudySettings("made")
    for batch in BATCHES:
        work = decode_only(batch)
        yield work.name, work, made
    if folder is not None:
        mooncake = StudySettings(str(folder / "mooncake_conversation.jsonl.gz"))
        work = load_workload(mooncake)
        yield "Mooncake conversation, 1 replica", work, mooncake
        yield "Mooncake conversation, 8 replicas", work, replace(mooncake, replicas=8)
        agents = StudySettings(
            str(folder / "claude_code_500_sessions.tar.xz"),
            replicas=8,
            num_blocks=20_000,
            concurrency=32,
            max_context="none",
        )
        work = load_workload(replace(agents, limit=50))
        yield "Claude Code, 50 sessions, 8 replicas", work, agents
        yield "the same with a policy in Python", work, replace(agents, policy=ByAge)
        yield "Claude Code, 500 sessions, 8 replicas", load_workload(agents), agents
    for requests in LINEAR:
        work = open_loop(requests)
        yield work.name, work, made


def measure(name: str, work: Workload, settings: StudySettings, how: Stepping) -> dict[str, float | int | str]:
    """One run."""
    cluster = make_cluster(settings, place_model(settings))
    before = time.process_time()
    run = simulate(work, cluster, stepping=how)
    seconds = time.process_time() - before
    steps = len(run.step_runs)
    row = {
        "case": name,
        "stepping": how.value,
        "cpu_s": round(seconds, 3),
        "calls": len(work.calls),
        "steps": steps,
        "steps_per_cpu_s": round(steps / seconds),
        "calls_per_cpu_s": round(len(work.calls) / seconds),
        "most_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(
        f"{name:40} {how.value:7} {seconds:8.2f} s {steps:11,} steps {row['steps_per_cpu_s']:10,} steps/s "
        f"{row['calls_per_cpu_s']:8,} calls/s",
        flush=True,
    )
    return row


def main() -> None:
    """Measure and write."""
    given = os.environ.get("TOKENSPEED_TRACES")
    rows = []
    for name, work, settings in cases(Path(given) if given else None):
        rows.append(measure(name, work, settings, Stepping.NATIVE))
        if "--both" in sys.argv and rows[-1]["steps"] < 3_000_000:
            rows.append(measure(name, work, settings, Stepping.PYTHON))
    write(HERE / "results" / "speed.json", {"rows": rows})


if __name__ == "__main__":
    main()
