"""Work in a process of its own: on CUDA a kernel that fails may take the device's context with it, or never end.

`python -m tokenspeed.kernels.workbench.worker check SKIP [OPERATION...]` and `... bench OPERATION` are started by
`checked` and `benched` of this module; results travel as lines of JSON.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from ..registry import REGISTRY
from .bench import BenchResult, bench_operation
from .check import CheckResult, RelativeError, check_kernels

_PATIENCE = 120.0
"""Seconds in which a check, with its compilation, must end."""
_BENCH_PATIENCE = 300.0
"""Seconds in which the measurements of one operation must end."""
_LOST = 3
"""Exit status of a worker whose context is lost."""


def checked(device: torch.device, operations: Collection[str] = ()) -> Iterator[CheckResult]:
    """The results of `check_kernels`. On CUDA a crash or a hang costs the kernel that caused it, not the others."""
    if device.type != "cuda":
        yield from check_kernels(device, operations)
        return
    done, finished = 0, False
    while not finished:
        running: CheckResult | None = None
        worker = _start("check", str(done), *operations)
        lines = _lines(worker)
        try:
            while not finished:
                line = lines.get(timeout=_PATIENCE)
                if line is None:
                    break
                message = json.loads(line)
                result = _from_json(message["result"]) if "result" in message else None
                finished = message["event"] == "finished"
                if message["event"] == "begin":
                    running = result
                elif result is not None:
                    running, done = None, done + 1
                    yield result
            why = f"the process ended with status {worker.wait()}"
        except queue.Empty:
            why = f"no result within {_PATIENCE:.0f} seconds"
        finally:
            worker.kill()
            worker.wait()
        if finished:
            return
        if running is not None:
            done += 1
            yield replace(running, failure=why)
        elif worker.returncode != _LOST:
            raise RuntimeError(f"the checking process failed before a check began: {why}; see its errors above")


def benched(device: torch.device, operations: Collection[str] = ()) -> Iterator[BenchResult]:
    """The results of `bench_operation` for each operation, on CUDA each in a process of its own."""
    for operation in operations or REGISTRY.operations():
        if device.type != "cuda":
            yield from bench_operation(operation, device)
            continue
        worker = _start("bench", operation)
        lines = _lines(worker)
        try:
            while (line := lines.get(timeout=_BENCH_PATIENCE)) is not None:
                yield BenchResult(**json.loads(line))
            failure = None if worker.wait() == 0 else f"the process ended with status {worker.returncode}"
        except queue.Empty:
            failure = f"no result within {_BENCH_PATIENCE:.0f} seconds"
        finally:
            worker.kill()
            worker.wait()
        if failure is not None:
            yield BenchResult(operation, "", "", "", None, None, 0, 0, 1, failure)


def _start(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _lines(worker: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """The worker's output line by line, then None."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _to_json(result: CheckResult) -> dict[str, Any]:
    return asdict(result) | {"dtype": str(result.dtype).removeprefix("torch.")}


def _from_json(fields: dict[str, Any]) -> CheckResult:
    tuples = {name: tuple(RelativeError(*pair) for pair in fields[name]) for name in ("errors", "tolerances")}
    return CheckResult(**(fields | tuples | {"dtype": getattr(torch, fields["dtype"])}))


def _say(event: str, result: CheckResult | None = None) -> None:
    message: dict[str, Any] = {"event": event}
    if result is not None:
        message["result"] = _to_json(result)
    print(json.dumps(message), flush=True)


def main(task: str, arguments: list[str]) -> int:
    """Do the task on the current CUDA device, and print its results. Returns the exit status."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if task == "bench":
        for measured in bench_operation(arguments[0], device):
            print(json.dumps(asdict(measured)), flush=True)
        return 0
    skip, *operations = arguments
    for result in check_kernels(device, operations, int(skip), begin=lambda result: _say("begin", result)):
        _say("end", result)
        if result.failure is not None and device.type == "cuda":
            try:
                torch.cuda.synchronize(device)
            except RuntimeError:
                return _LOST
    _say("finished")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
