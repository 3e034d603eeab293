"""Measures trace files: how fast they are validated, and what recording costs a scheduler.

    make bench-trace            (about 2 minutes; ARGS="--sessions 4 --rounds 2" for a first look)

Validation: a simulation of coding agents records at least a million events, and one thread replays the file, several
times. Recording: 256 requests decode on a scheduler that records and on one that does not, in turns; a step is plan +
land, and draining the records is counted with the recording one. Writes results/<name>.json: raw figures, medians,
machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from record import write

from tokenspeed.scheduler import Scheduler, SchedulerConfig
from tokenspeed.simulator import StudySettings
from tokenspeed.simulator.study.run import run_study
from tokenspeed.simulator.study.settings import load_workload
from tokenspeed.spec.conform.trace_file import Validator
from tokenspeed.spec.system import SPEC

HERE = Path(__file__).resolve().parent
BATCH, PAGE = 256, 64
STEPS, TURNS = 25, 24


def record(path: Path | None, sessions: int) -> float:
    """Simulate coding agents; seconds. With a path, the transitions are written there."""
    settings = StudySettings(workload="swe-agent", limit=sessions)
    workload = load_workload(settings)
    start = time.perf_counter()
    run_study(settings, workload, record_trace=path)
    return time.perf_counter() - start


def validation(sessions: int, rounds: int) -> dict[str, object]:
    """Events per second of `verify trace`, and the simulation's time with and without recording."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.tstrace"
        plain, recording = [], []
        for _ in range(rounds):
            plain.append(record(None, sessions))
            recording.append(record(path, sessions))
        verdicts = [Validator(SPEC, path).run() for _ in range(rounds)]
        size = path.stat().st_size
    if any(v.false for v in verdicts):
        raise SystemExit(f"the recorded trace is not allowed: {verdicts[0].false}")
    rates = [v.events / v.seconds for v in verdicts]
    return {
        "events": verdicts[0].events, "bytes": size, "events_per_second": statistics.median(rates),
        "raw_events_per_second": rates, "simulation_seconds": statistics.median(plain),
        "simulation_recording_seconds": statistics.median(recording),
        "raw_simulation_seconds": plain, "raw_simulation_recording_seconds": recording,
    }  # fmt: skip


class Decoding:
    """256 requests that decode, with room for `steps` more tokens each."""

    def __init__(self, context: int, steps: int, record_trace: bool) -> None:
        output = steps + 400
        config = SchedulerConfig(
            num_blocks=BATCH * ((context + output) // PAGE + 2), block_size=PAGE, max_running=BATCH,
            max_step_tokens=65_536, overlap_depth=0, record_trace=record_trace,
        )  # fmt: skip
        self.scheduler = Scheduler(config)
        self.results = np.full(BATCH, 7, dtype=np.int32)
        rng = np.random.default_rng(0)
        for request in range(BATCH):
            self.scheduler.submit(request, rng.integers(0, 100_000, context, dtype=np.int32), output)
        while self.scheduler.stats().scheduled_tokens < BATCH * context:
            self.step()

    def step(self) -> int:
        """Nanoseconds of plan + land + draining."""
        start = time.perf_counter_ns()
        plan = self.scheduler.plan()
        assert plan is not None
        self.scheduler.land(plan.step, self.results[: plan.sampling_rows])
        self.scheduler.drain_trace_records()
        return time.perf_counter_ns() - start


def overhead(context: int, rounds: int) -> dict[str, object]:
    """The median step without and with recording, microseconds, round by round."""
    steps = (rounds + 1) * TURNS * STEPS
    schedulers = {"off": Decoding(context, steps, False), "on": Decoding(context, steps, True)}
    before = schedulers["on"].scheduler.trace_footer()["events"]
    raw = []
    for number in range(rounds + 1):
        times: dict[str, list[int]] = {"off": [], "on": []}
        for turn in range(TURNS):
            for name in ("off", "on") if turn % 2 else ("on", "off"):
                times[name] += [schedulers[name].step() for _ in range(STEPS)]
        if number > 0:  # the first round warms up
            raw.append({name: statistics.median(x) / 1000 for name, x in times.items()})
    footer = schedulers["on"].scheduler.trace_footer()
    if footer["lost"]:
        raise SystemExit(f"{footer['lost']} events were lost")
    return {
        "events_per_step": (footer["events"] - before) / steps,
        "median_us": {name: statistics.median(r[name] for r in raw) for name in ("off", "on")},
        "on_over_off": statistics.median(r["on"] / r["off"] for r in raw),
        "raw_us": raw,
    }


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sessions", type=int, default=32, help="simulated sessions; 32 give over a million events")
    parser.add_argument("--name", default="latest", help="name of the file in results/")
    options = parser.parse_args()
    found = validation(options.sessions, options.rounds)
    print(f"{found['events']:,} events ({found['bytes']:,} bytes): {found['events_per_second']:,.0f} events/s")
    print(f"simulation {found['simulation_seconds']:.2f} s, recording {found['simulation_recording_seconds']:.2f} s")
    document: dict[str, object] = {
        "rounds": options.rounds,
        "validation": found,
    }
    for context in (1_000, 50_000):
        cost = overhead(context, options.rounds)
        document[f"recording, {BATCH} x {context}"] = cost
        print(
            f"{BATCH} x {context}: {cost['median_us']} us a step, {cost['events_per_step']:.0f} events a step, "
            f"on / off {cost['on_over_off']:.3f}"
        )
    write(HERE / "results" / f"{options.name}.json", document)


if __name__ == "__main__":
    main()
