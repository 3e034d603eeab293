"""`tokenspeed kernels`: the list, the check, and what they say when something is missing or wrong."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from tokenspeed.cli import main
from tokenspeed.kernels import REGISTRY, Band, Kernel, Selection
from tokenspeed.kernels.workbench import command
from tokenspeed.kernels.workbench.check import (
    Case,
    CheckResult,
    RelativeError,
    Results,
    check_kernel,
    check_kernels,
    relative_error,
)

pytestmark = pytest.mark.serve

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about a machine without a GPU, whatever runs them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for operation in REGISTRY.operations():
        monkeypatch.delenv(REGISTRY.operation(operation).variable, raising=False)


def test_lists_every_kernel_and_explains_the_choice() -> None:
    result = CliRunner().invoke(main, ["kernels"])
    assert result.exit_code == 0, result.output
    for operation in REGISTRY.operations():
        for kernel in REGISTRY.operation(operation).kernels():
            assert any(operation in line and kernel.name in line for line in result.output.splitlines())
    assert "paged_attention on cpu, bfloat16, heads=32, kv_heads=8, head_dim=128, block_size=16" in result.output
    assert "chosen      torch_sdpa [portable]: highest band among those that fit" in result.output
    assert "Chosen on this machine (CPU, capability cpu, torch" in result.output


def test_every_operation_has_an_example() -> None:
    shown = {selection.problem.operation for selection in command.selections(CPU) if isinstance(selection, Selection)}
    assert shown == set(REGISTRY.operations())


def test_lists_as_json() -> None:
    result = CliRunner().invoke(main, ["kernels", "--json"])
    assert result.exit_code == 0, result.output
    listed = json.loads(result.output)
    assert listed["machine"]["device"] == "CPU"
    kernels = {(kernel["operation"], kernel["name"]): kernel for kernel in listed["kernels"]}
    assert kernels["paged_attention", "torch_sdpa"] == {
        "operation": "paged_attention",
        "name": "torch_sdpa",
        "band": "portable",
        "platforms": ["cpu"],
        "dtypes": ["bfloat16", "float16", "float32"],
        "traits": [],
        "only_by_name": None,
    }
    assert {selection["kernel"] for selection in listed["selections"]} == {"torch_sdpa", "reference"}


def run_without(module: str) -> subprocess.CompletedProcess[str]:
    """`tokenspeed kernels` where importing a module fails as if it were not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; from tokenspeed.cli import main; main(['kernels'])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_lists_without_triton() -> None:
    done = run_without("triton")
    assert done.returncode == 0, done.stderr
    assert "chosen      reference [reference]" in done.stdout
    assert "unavailable tokenspeed.kernels.mla.triton_split_kv: cannot be imported" in done.stdout
    assert "unavailable tokenspeed.kernels.mla.gluon_hopper: cannot be imported" in done.stdout


def test_says_what_to_install_without_torch() -> None:
    done = run_without("torch")
    assert done.returncode == 1
    assert "this command needs the Python module `torch`" in done.stderr
    assert "pip install 'tokenspeed[serve]'" in done.stderr


def test_a_variable_that_names_an_unknown_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSPEED_KERNEL_WRITE_KV", "fastest")
    result = CliRunner().invoke(main, ["kernels"])
    assert result.exit_code == 2
    assert "error: TOKENSPEED_KERNEL_WRITE_KV=fastest: write_kv has no kernel of this name" in result.output


def test_a_named_kernel_that_does_not_fit_an_example_is_said_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSPEED_KERNEL_MLA_DECODE", "gluon_hopper")
    result = CliRunner().invoke(main, ["kernels"])
    assert result.exit_code == 0, result.output
    assert "TOKENSPEED_KERNEL_MLA_DECODE=gluon_hopper cannot run mla_decode on cpu" in result.output
    assert "chosen      torch_sdpa" in result.output, "the other operations are still shown"
    listed = json.loads(CliRunner().invoke(main, ["kernels", "--json"]).output)
    assert sum("error" in selection for selection in listed["selections"]) == 4


def test_a_misspelt_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSPEED_KERNEL_MLA_DECODEE", "gluon_hopper")
    result = CliRunner().invoke(main, ["kernels"])
    assert result.exit_code == 0
    assert "warning: TOKENSPEED_KERNEL_MLA_DECODEE is set, but no operation is called so" in result.output


@pytest.mark.slow
def test_every_kernel_of_this_machine_passes() -> None:
    results = list(check_kernels(CPU))
    assert [result for result in results if not result.passed] == []
    checked = {(result.operation, result.kernel, result.dtype) for result in results}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for operation in REGISTRY.operations():
            assert (operation, "reference", dtype) in checked
        assert ("paged_attention", "torch_sdpa", dtype) in checked


ALLOWED = (RelativeError(1e-3, 2e-3),)
RESULT = CheckResult("write_kv", "fast", "4 heads", torch.float16, (RelativeError(1e-4, 1.5e-3),), ALLOWED, True)


@pytest.mark.parametrize(
    ("result", "status", "shown"),
    [
        (RESULT, 0, "Every kernel that runs here is right."),
        (
            replace(RESULT, errors=(RelativeError(0.5, 1e-3),)),
            1,
            "4 heads: errors 5.00e-01 (allowed 1.0e-03), of the worst",
        ),
        (replace(RESULT, errors=(RelativeError(1e-3, 0.5),)), 1, "row 5.00e-01 (2.0e-03); same bits twice: True"),
        (replace(RESULT, errors=(RelativeError(math.nan, math.nan),)), 1, "errors nan (allowed 1.0e-03)"),
        (replace(RESULT, same_bits=False), 1, "same bits twice: False"),
        (replace(RESULT, failure="ValueError: no"), 1, "4 heads: ValueError: no"),
    ],
)
def test_reports_the_check(result: CheckResult, status: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "checked", lambda device, operations: [result])
    invoked = CliRunner().invoke(main, ["kernels", "--check"])
    assert invoked.exit_code == status
    assert shown in " ".join(invoked.output.split())
    assert "not checked mla_decode triton_split_kv" in invoked.output
    invoked = CliRunner().invoke(main, ["kernels", "--check", "--json"])
    assert invoked.exit_code == status
    assert json.loads(invoked.output)["passed"] == (status == 0)


BOUNDS = (RelativeError(1e-5, 1e-5), RelativeError(1e-3, 1e-3))


def check_function(run: object) -> CheckResult:
    """Check something that should return ones and a logarithm of which one is -inf."""
    exact = (torch.ones(2, 3).double(), torch.tensor([[0.5], [-torch.inf]]).double())
    case = Case("write_kv", "ones", torch.float32, (), run, exact, BOUNDS)  # type: ignore[arg-type]
    return check_kernel(case, Kernel("write_kv", "tried", print, Band.PORTABLE))


def test_accepts_what_is_right_and_nothing_else() -> None:
    lse = torch.tensor([[0.5], [-torch.inf]])
    assert check_function(lambda kernel: (torch.ones(2, 3), lse)).passed
    unwritten = torch.tensor([[1.0, 1, 1], [1, torch.nan, 1]])
    for wrong in (
        (torch.ones(2, 3) * 1.001, lse),
        (unwritten, lse),
        (torch.ones(2, 3), torch.tensor([[0.5], [-1e30]])),
        (torch.ones(2, 3), torch.tensor([[-torch.inf], [-torch.inf]])),
    ):
        assert not check_function(lambda kernel, wrong=wrong: wrong).passed
    runs = iter([torch.ones(2, 3), torch.ones(2, 3) + 1e-7])
    changing = check_function(lambda kernel: (next(runs), lse))
    assert not changing.same_bits and not changing.passed

    def fail(kernel: str) -> Results:
        raise RuntimeError("illegal memory access")

    assert check_function(fail).failure == "RuntimeError: illegal memory access"
    assert not check_function(fail).passed


def test_the_errors_are_those_of_the_whole_and_of_the_worst_row() -> None:
    exact = torch.tensor([[1e6, 0.0], [1.0, 0.0], [0.0, 0.0]]).double()
    got = exact.clone()
    got[1, 1] = 0.25
    assert relative_error(got, exact) == pytest.approx((0.25e-6, 0.25))
    got[2, 0] = 0.5
    assert relative_error(got, exact).worst == pytest.approx(0.5)
    got[0, 1] = 1e4
    assert relative_error(got, exact).whole == pytest.approx(1e-2)
    assert relative_error(got[2:], exact[2:]) == pytest.approx((0.5, 0.5))
