"""The measured cases, in terms of a small adapter that each scheduler implements.

Standard library only: every peer's environment can run it.

An adapter has `submit(request_id, tokens, max_new_tokens)`, `plan()`, which gives the next step or None and also
reads what a model runner needs as arrays, and `land(plan)`, which gives every sampling row one token.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

PAGE = 64
TOKEN = 7


class Adapter(Protocol):
    """One scheduler under test."""

    def submit(self, request_id: int, tokens: Any, max_new_tokens: int) -> None:
        """Queue a request."""

    def plan(self) -> Any:
        """The next step with its arrays read, or None."""

    def land(self, plan: Any) -> None:
        """One token for each row that samples."""

    def prompt(self, tokens: list[int]) -> Any:
        """The prompt in the form that the scheduler takes; making it is not timed."""


MakeAdapter = Callable[[int, int], Adapter]
"""(blocks in the pool, token budget of a step) -> scheduler with page 64, 256 running requests, no overlap."""


BASE = random.Random(0).choices(range(100_000), k=140_000)


def prompt(length: int, seed: int) -> list[int]:
    """Token ids; prompts of different seeds differ from the first token on, so they share no prefix."""
    return [100_000 + seed, *BASE[seed % 1000 : seed % 1000 + length - 1]]


def step(adapter: Adapter) -> int:
    """Nanoseconds of one plan + read + land."""
    start = time.perf_counter_ns()
    plan = adapter.plan()
    if plan is not None:
        adapter.land(plan)
    return time.perf_counter_ns() - start


def fill(adapter: Adapter, batch: int, context: int) -> None:
    """Bring `batch` requests of about `context` tokens to decoding, each at another place of its page."""
    for request_id in range(batch):
        adapter.submit(request_id, adapter.prompt(prompt(context - request_id % PAGE, request_id)), 4000)
    for _ in range(batch * context // 65_536 + 30):
        step(adapter)


def decode(make: MakeAdapter, batch: int, context: int, steps: int) -> dict[str, float]:
    """Decode steps of a full batch: microseconds, median, 10th (if others use the machine) and 99th percentile."""
    adapter = make(batch * (context // PAGE + 70) + 8, 65_536)
    fill(adapter, batch, context)
    times = sorted(step(adapter) / 1000 for _ in range(steps))
    p10, p99 = times[len(times) // 10], times[int(len(times) * 0.99)]
    return {"median_us": statistics.median(times), "p10_us": p10, "p99_us": p99}


def turn(make: MakeAdapter, context: int, rounds: int) -> dict[str, float]:
    """Submit + first plan of a prompt that nobody has seen, and of the next turn of a session that is resident."""
    miss, hit = [], []
    for i in range(rounds):
        adapter = make(4 * (context // PAGE) + 100, 65_536)
        tokens = prompt(context, i)
        for times, given in ((miss, tokens), (hit, [*tokens, *prompt(200, i + 1000)])):
            ready = adapter.prompt(given)
            start = time.perf_counter_ns()
            adapter.submit(len(times) + (10_000 if times is hit else 0), ready, 2)
            plan = adapter.plan()
            times.append((time.perf_counter_ns() - start) / 1000)
            while plan is not None:
                adapter.land(plan)
                plan = adapter.plan()
    return {"miss_us": statistics.median(miss), "hit_us": statistics.median(hit)}


def waiting(make: MakeAdapter, waiting_requests: int, context: int, steps: int) -> dict[str, float]:
    """Decode steps of 16 long requests that fill the pool, while others of the same length wait."""
    running = 16
    adapter = make(running * (context // PAGE + 6), 65_536)
    fill(adapter, running, context)
    for i in range(waiting_requests):
        adapter.submit(1000 + i, adapter.prompt(prompt(context, 1000 + i)), 200)
    step(adapter)  # the first look at the line
    times = sorted(step(adapter) / 1000 for _ in range(steps))
    return {"median_us": statistics.median(times), "p10_us": times[len(times) // 10]}


def agentic(make: MakeAdapter, sessions: int, turns: int) -> dict[str, float]:
    """Closed loop of coding agents with a shared 8k system prompt: scheduler time for each generated token."""
    rng = random.Random(1)
    system = prompt(8192, 99)
    histories = {s: [*system, *prompt(200, s)] for s in range(sessions)}
    left = dict.fromkeys(histories, turns)
    adapter = make(40_000, 8192)
    owner: dict[int, int] = {}
    wanted: dict[int, int] = {}
    next_id, spent, generated = 0, 0, 0

    def start(session: int) -> None:
        nonlocal next_id, spent
        output = rng.randrange(60, 240)
        ready = adapter.prompt(histories[session])
        begin = time.perf_counter_ns()
        adapter.submit(next_id, ready, output)
        spent += time.perf_counter_ns() - begin
        owner[next_id], wanted[next_id] = session, output
        next_id += 1

    for session in histories:
        start(session)
    while owner:
        begin = time.perf_counter_ns()
        plan = adapter.plan()
        sampled = adapter.land(plan)
        spent += time.perf_counter_ns() - begin
        for request_id in sampled:
            generated += 1
            wanted[request_id] -= 1
            if wanted[request_id] == 0:
                session = owner.pop(request_id)
                left[session] -= 1
                histories[session] += [TOKEN] * 60 + prompt(rng.randrange(200, 4000), rng.randrange(100_000))
                if left[session]:
                    start(session)
    return {"us_per_token": spent / 1000 / generated, "tokens": float(generated)}


def run(make: MakeAdapter, quick: bool) -> dict[str, dict[str, float]]:
    """All cases once: name -> figures."""
    gc.disable()
    results = {}
    contexts = (1024, 50_000) if quick else (1024, 4096, 16_384, 50_000, 131_072)
    for batch in (1, 32, 256):
        for context in contexts:
            if batch * context <= 256 * 50_000:
                heavy = batch * context > 4_000_000
                results[f"decode {batch} x {context}"] = decode(make, batch, context, 40 if heavy else 150)
                gc.collect()
    results["turn of 50000"] = turn(make, 50_000, 9)
    for count in (0, 1, 8, 32) if quick else (0, 1, 8, 32, 128, 1024):
        results[f"waiting {count}"] = waiting(make, count, 50_000, 12 if count > 100 else 40)
        gc.collect()
    results["agentic loop"] = agentic(make, 32, 8)
    return results
