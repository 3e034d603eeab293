"""Checks and measurements in processes of their own: one that crashes or hangs costs one kernel, not the others."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tokenspeed.cli import main
from tokenspeed.kernels import Band, Kernel
from tokenspeed.kernels.registry import Registry
from tokenspeed.kernels.workbench import bench, command, worker
from tokenspeed.kernels.workbench.bench import BenchResult, bench_case
from tokenspeed.kernels.workbench.bench_case import BenchCase, Inputs
from tokenspeed.kernels.workbench.check import CheckResult, RelativeError, check_kernels

pytestmark = pytest.mark.serve

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_results_survive_the_way_between_processes() -> None:
    """The worker finds no GPU here and checks on the CPU; the parent believes it to be one."""
    results = list(worker.checked(CUDA, ["write_kv", "silu_mul"]))
    assert results == list(check_kernels(CPU, ["write_kv", "silu_mul"]))
    assert {result.operation for result in results} == {"write_kv", "silu_mul"}


def message(event: str, kernel: str) -> str:
    error = 0.0 if event == "end" else float("nan")
    errors, allowed = (RelativeError(error, error),), (RelativeError(1e-3, 1e-3),)
    result = CheckResult("write_kv", kernel, "a case", torch.float16, errors, allowed, event == "end")
    fields = asdict(result) | {"dtype": "float16"}
    return f"print({json.dumps({'event': event, 'result': fields})!r}, flush=True)\n"


def pretend(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> list[tuple[str, ...]]:
    """Run these scripts, one after another, instead of workers. Returns what the workers were asked."""
    asked: list[tuple[str, ...]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        asked.append(arguments)
        return subprocess.Popen([sys.executable, "-c", scripts[len(asked) - 1]], stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(worker, "_start", start)
    return asked


FINISHED = 'print(\'{"event": "finished"}\')\n'


def test_a_crash_costs_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    first = message("begin", "a") + message("end", "a") + message("begin", "b") + "import os; os._exit(134)"
    second = message("begin", "c") + message("end", "c") + FINISHED
    asked = pretend(monkeypatch, first, second)
    results = list(worker.checked(CUDA, ["write_kv"]))
    assert [(result.kernel, result.passed) for result in results] == [("a", True), ("b", False), ("c", True)]
    assert results[1].failure == "the process ended with status 134"
    assert asked == [("check", "0", "write_kv"), ("check", "2", "write_kv")]


def test_a_lost_context_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker reports the failure itself, then ends, for the device would refuse everything that follows."""
    first = message("begin", "a") + message("end", "a") + "import os; os._exit(3)"
    asked = pretend(monkeypatch, first, FINISHED)
    assert [result.kernel for result in worker.checked(CUDA)] == ["a"]
    assert asked == [("check", "0"), ("check", "1")]


def test_a_hang_costs_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PATIENCE", 2.0)
    pretend(monkeypatch, message("begin", "a") + "import time; time.sleep(60)", FINISHED)
    (result,) = worker.checked(CUDA)
    assert result.failure == "no result within 2 seconds"


def test_a_worker_that_cannot_begin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "raise SystemExit(5)")
    with pytest.raises(RuntimeError, match="failed before a check began: the process ended with status 5"):
        list(worker.checked(CUDA))


def test_measuring_goes_on_behind_an_operation_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    result = BenchResult("rotary", "a case", "bfloat16", "fast", 1.0, (1.0, 1.0), 2.0, 0.0, 3)
    pretend(monkeypatch, "import os; os._exit(1)", f"print({json.dumps(asdict(result))!r})")
    crashed, measured = worker.benched(CUDA, ["rms_norm", "rotary"])
    assert (crashed.operation, crashed.failure) == ("rms_norm", "the process ended with status 1")
    assert (measured.name, measured.us) == ("fast", 1.0)


def fail(x: torch.Tensor) -> None:
    raise RuntimeError("no image for this device")


def test_measures_every_kernel_and_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    operation = registry.declare("blend", traits=())
    registry.register("blend", name="reference", band=Band.REFERENCE)(torch.neg)
    registry.register("blend", name="fast", band=Band.PORTABLE)(torch.neg)
    registry.register("blend", name="broken", band=Band.OPTIMIZED)(fail)
    monkeypatch.setattr(bench, "REGISTRY", registry)
    kernels: dict[str, Kernel] = {kernel.name: kernel for kernel in operation.kernels()}

    def make(device: torch.device) -> Inputs:
        x = torch.zeros(64, device=device)
        return Inputs(lambda kernel: kernels[kernel].run(x), {"peer": lambda: x.clone()})

    case = BenchCase("blend", "64 values", torch.float32, (), 512, 64, make)
    results = {result.name: result for result in bench_case(case, CPU, rounds=2)}
    assert list(results) == ["broken", "fast", "reference", "peer"]
    assert results["broken"].us is None and results["broken"].failure == "RuntimeError: no image for this device"
    assert results["broken"].peer is False
    assert [name for name, result in results.items() if result.peer] == ["reference", "peer"]
    for name in ("fast", "reference", "peer"):
        us = results[name].us
        assert us is not None and us > 0
        assert results[name].gigabytes_per_s == pytest.approx(512 / us * 1e-3, abs=2e-3)


@pytest.mark.parametrize(("failure", "status"), [(None, 0), ("RuntimeError: no", 1)])
def test_reports_measurements(failure: str | None, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    us = None if failure else 2.0
    common = ("rotary", "a case", "bfloat16")
    results = [
        BenchResult(*common, "fast", us, (2.0, 2.0), 5.0, 0.0, 3, failure),
        BenchResult(*common, "reference", 7.0, (7.0, 7.0), 1.0, 0.0, 3, peer=True),
    ]
    monkeypatch.setattr(command, "benched", lambda device, operations: iter(results))
    invoked = CliRunner().invoke(main, ["kernels", "--bench"])
    assert invoked.exit_code == status
    assert ("3.50x" in invoked.output) == (failure is None)
    assert ("FAILED rotary fast, a case: RuntimeError: no" in invoked.output) == (failure is not None)
    invoked = CliRunner().invoke(main, ["kernels", "--bench", "--json"])
    report: dict[str, Any] = json.loads(invoked.stdout)
    assert invoked.exit_code == status
    assert [result["us"] for result in report["results"]] == [us, 7.0]
    assert "torch" in report["machine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "--bench"], "--check and --bench are two commands"),
        (["rotary"], "OPERATIONS restricts --check and --bench"),
        (["--check", "rotory"], "no operation is named 'rotory'; known operations: grouped_gemm"),
    ],
)
def test_wrong_arguments_of_the_command(arguments: list[str], message: str) -> None:
    invoked = CliRunner().invoke(main, ["kernels", *arguments])
    assert invoked.exit_code == 2
    assert message in invoked.output
