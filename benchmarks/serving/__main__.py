"""Tokens that the front end streams per second of its processor time, with a stand-in engine: `make bench-serving`.

The engine is real up to the device: control loop, scheduler, detokeniser, streams, HTTP. The step itself takes no
time: every row gets a letter. Clients read in another process. `ARGS="--streams 64 256 --tokens 200"`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from record import write

from support import stand_ins
from tokenspeed.engine.run.step.result import StepResult

HERE = Path(__file__).resolve().parent


class LetterRunner:
    """Executes a step in no time."""

    def launch(self, plan: Any, sampling: Any) -> LetterRunner:
        """Every sampling row gets the letter x."""
        step = LetterRunner()
        rows = plan.sampling_rows
        step.result = StepResult(np.full(rows, ord("x"), np.int32), np.ones(rows, np.int32), np.ones(rows, np.bool_))
        return step

    def release(self) -> None:
        """Nothing is ever held."""

    def wait(self) -> StepResult:
        """At once."""
        return self.result


async def stream(port: int, path: str, body: dict[str, Any]) -> tuple[int, int]:
    """Read one stream; returns its events and its bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content)
    events = size = 0
    while data := await reader.read(2**16):
        events += data.count(b"data: ")
        size += len(data)
    writer.close()
    return events, size


def clients(ports: Any, count: int, tokens: int, path: str, results: Any) -> None:
    """All streams at once, in a process of their own, as soon as there is a port."""
    port = ports.get()
    body: dict[str, Any] = {"max_tokens": tokens, "stream": True, "ignore_eos": True}
    body |= {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}

    async def run() -> list[tuple[int, int]]:
        return await asyncio.gather(*(stream(port, path, body) for _ in range(count)))

    start = time.monotonic()
    done = asyncio.run(run())
    results.put((time.monotonic() - start, sum(events for events, _ in done)))


def measure(path: str, count: int, tokens: int) -> dict[str, float]:
    """One run."""
    config = stand_ins.small_config(num_blocks=65536, block_size=16, max_running=512, max_step_tokens=2048)
    # Forked before the server's threads exist.
    context = multiprocessing.get_context("fork")
    ports, results = context.Queue(), context.Queue()
    process = context.Process(target=clients, args=(ports, count, tokens, path, results))
    process.start()
    with stand_ins.running_server(config, max_waiting=1024, runner=LetterRunner()) as server:
        ports.put(server.address[1])
        before = time.process_time()
        seconds, events = results.get()
        cpu = time.process_time() - before
        process.join()
    total = count * tokens
    return {
        "streams": count,
        "tokens": total,
        "events": events,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "tokens_per_s": round(total / seconds),
        "tokens_per_cpu_s": round(total / cpu),
        "us_per_token": round(cpu / total * 1e6, 1),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    rows = []
    for path in ("/v1/chat/completions", "/v1/completions"):
        for count in options.streams:
            rows.append({"path": path, **measure(path, count, options.tokens)})
            print(rows[-1], flush=True)
    write(HERE / "results" / "latest.json", {"rows": rows})


if __name__ == "__main__":
    main()
