"""`tokenspeed kernels`: what is registered, what is chosen on this machine and why, whether it is right, how fast."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..constraints import Trait
from ..errors import KernelDoesNotFit, KernelError
from ..kernel import Kernel, Selection
from ..registry import REGISTRY, explain
from .bench import BenchResult
from .check import CheckResult, RelativeError
from .hardware import machine
from .worker import benched, checked

_EXAMPLES: dict[str, list[dict[str, Trait]]] = {
    "grouped_gemm": [{"groups": 128, "columns": 1536, "inner": 2048}],
    "mla_decode": [
        {"heads": heads, "q_len": q_len, "block_size": 64, "dense_cache": 1, "cache_bits": bits}
        for heads, q_len, bits in ((16, 1, 16), (16, 4, 16), (128, 1, 16), (16, 1, 8))
    ],
    "mla_prefill": [{"heads": 16, "aligned": 1}],
    "moe_mlp": [{"experts": 128, "top_k": 8, "hidden": 2048, "width": 768}],
    "moe_route": [{"experts": 256, "top_k": 8, "scoring": "sigmoid", "groups": 1}],
    "paged_attention": [{"heads": 32, "kv_heads": 8, "head_dim": 128, "block_size": 16, "layout": "heads_adjoin"}],
    "rms_norm": [{"hidden": 4096, "residual": 1}],
    "rotary": [{"heads": 40, "head_dim": 128}],
    "sample_tokens": [{"vocab": 128_256}],
    "silu_mul": [{"width": 14_336}],
    "write_kv": [{"kv_heads": 8, "head_dim": 128, "block_size": 16, "layout": "heads_adjoin"}],
}
"""Problems whose selections are shown: shapes of DeepSeek's models (on 8 GPUs and on 1), Qwen3 30B-A3B, Llama 3 8B."""


def run_kernels(
    check: bool = False, json_output: bool = False, bench: bool = False, operations: Sequence[str] = ()
) -> int:
    """List the kernels and this machine's choices, check every kernel here, or measure them. Returns the exit status.

    operations: those to check or measure; empty means all
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for variable in _unknown_variables():
        print(f"warning: {variable} is set, but no operation is called so; see `tokenspeed kernels`", file=sys.stderr)
    try:
        for name in operations:
            REGISTRY.operation(name)
        if check:
            return _check(device, json_output, operations)
        return _bench(device, json_output, operations) if bench else _list(device, json_output)
    except KernelError as error:  # a variable TOKENSPEED_KERNEL_... names a kernel that does not exist or fit
        print(f"error: {error}", file=sys.stderr)
        return 2


def _unknown_variables() -> list[str]:
    known = {REGISTRY.operation(name).variable for name in REGISTRY.operations()}
    return sorted(name for name in os.environ if name.startswith("TOKENSPEED_KERNEL_") and name not in known)


def selections(device: torch.device) -> list[Selection | KernelDoesNotFit]:
    """What would run the example problems here, in the dtype that models are served in.

    Where the kernel that a variable names does not fit an example, the error stands in its place.
    """
    found: list[Selection | KernelDoesNotFit] = []
    for operation in REGISTRY.operations():
        for traits in _EXAMPLES.get(operation, []):
            try:
                found.append(explain(operation, device=device, dtype=torch.bfloat16, kernel=None, **traits))
            except KernelDoesNotFit as error:
                found.append(error)
    return found


def _list(device: torch.device, json_output: bool) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a broken plugin is a line of the table
        kernels = [kernel for name in REGISTRY.operations() for kernel in REGISTRY.operation(name).kernels()]
        chosen = selections(device)
    if json_output:
        listed = {"machine": machine(device), "kernels": [_kernel_json(kernel) for kernel in kernels]}
        print(json.dumps(listed | {"selections": [_selection_json(selection) for selection in chosen]}, indent=1))
        return 0
    console = _console()
    table = Table(title="Registered kernels, best first", title_justify="left")
    for heading in ("operation", "kernel", "band", "runs on", "dtypes", "needs"):
        table.add_column(heading)
    for kernel in kernels:
        shown = _kernel_json(kernel)
        needs = shown["traits"]
        if kernel.only_by_name is not None:
            needs = [*needs, f"to be asked for by name: {kernel.only_by_name}"]
        cells = (shown["platforms"], shown["dtypes"], needs)
        table.add_row(kernel.operation, kernel.name, shown["band"], *(escape("\n".join(cell)) for cell in cells))
    console.print(table)
    console.print(f"\nChosen on this machine ({_described(machine(device))}):")
    for selection in chosen:
        if isinstance(selection, KernelDoesNotFit):
            console.print(f"\n[red]{escape(str(selection))}[/red]")
            continue
        console.print(f"\n[bold]{escape(str(selection.problem))}[/bold]")
        for candidate in selection.candidates:
            colour = {"chosen": "green", "unavailable": "yellow"}.get(candidate.verdict, "default")
            console.print(f"  [{colour}]{escape(str(candidate))}[/{colour}]")
    return 0


def _kernel_json(kernel: Kernel) -> dict[str, Any]:
    dtypes = ["any"] if kernel.dtypes is None else sorted(str(dtype).removeprefix("torch.") for dtype in kernel.dtypes)
    return {
        "operation": kernel.operation,
        "name": kernel.name,
        "band": kernel.band.name.lower(),
        "platforms": [str(platform) for platform in kernel.platforms],
        "dtypes": dtypes,
        "traits": [f"{trait} {constraint.text}" for trait, constraint in kernel.traits.items()],
        "only_by_name": kernel.only_by_name,
    }


def _selection_json(selection: Selection | KernelDoesNotFit) -> dict[str, Any]:
    if isinstance(selection, KernelDoesNotFit):
        return {"error": str(selection)}
    candidates = [
        {"name": candidate.name, "verdict": candidate.verdict, "reasons": list(candidate.reasons)}
        for candidate in selection.candidates
    ]
    return {"problem": str(selection.problem), "kernel": selection.kernel.name, "candidates": candidates}


def _check(device: torch.device, json_output: bool, operations: Sequence[str]) -> int:
    with Console(stderr=True).status("checking every kernel"):
        results = list(checked(device, operations))
    passed = all(result.passed for result in results)
    unchecked = _unchecked(results, operations)
    if json_output:
        checks = [_result_json(result) for result in results]
        report = {"machine": machine(device), "passed": passed, "unchecked": unchecked, "checks": checks}
        print(json.dumps(report, indent=1))
        return 0 if passed else 1
    console = _console()
    table = Table(title=f"Numerics on {_described(machine(device))}", title_justify="left")
    errors = ("error", "allowed", "worst row", "allowed")
    for heading in ("operation", "kernel", "dtype", "cases", *errors, "same bits", "verdict"):
        table.add_column(heading)
    groups: dict[tuple[str, str, torch.dtype], list[CheckResult]] = {}
    for result in results:
        groups.setdefault((result.operation, result.kernel, result.dtype), []).append(result)
    for (operation, kernel, dtype), group in sorted(groups.items(), key=lambda item: (*item[0][:2], str(item[0][2]))):
        figures = [f"{figure:.1e}" for part in (0, 1) for figure in max((_first(r, part) for r in group), key=_share)]
        verdict = "[green]passed[/green]" if all(result.passed for result in group) else "[red]FAILED[/red]"
        bits = "yes" if all(result.same_bits for result in group) else "[red]no[/red]"
        row = (str(len(group)), *figures, bits, verdict)
        table.add_row(operation, kernel, str(dtype).removeprefix("torch."), *row)
    console.print(table)
    for result in results:
        if not result.passed:
            shown = ", ".join(
                f"{got.whole:.2e} (allowed {allowed.whole:.1e}), of the worst row {got.worst:.2e} ({allowed.worst:.1e})"
                for got, allowed in zip(result.errors, result.tolerances, strict=True)
            )
            why = result.failure or f"errors {shown}; same bits twice: {result.same_bits}"
            where = f"{result.operation} {result.kernel} {result.dtype}, {result.description}"
            console.print(f"[red]FAILED[/red] {escape(f'{where}: {why}')}")
    for name in unchecked:
        console.print(f"[yellow]not checked[/yellow] {escape(name)}")
    console.print("[green]Every kernel that runs here is right.[/green]" if passed else "[red]Some are wrong.[/red]")
    return 0 if passed else 1


def _bench(device: torch.device, json_output: bool, operations: Sequence[str]) -> int:
    results = []
    with Console(stderr=True).status("measuring") as status:
        for result in benched(device, operations):
            status.update(f"measured {result.operation} {result.name}")
            results.append(result)
    failed = [result for result in results if result.failure is not None and not result.peer]
    if json_output:
        print(json.dumps({"machine": machine(device), "results": [asdict(result) for result in results]}, indent=1))
        return 1 if failed else 0
    console = _console()
    table = Table(title=f"Speed on {_described(machine(device))}", title_justify="left")
    for heading in ("operation", "problem", "kernel", "microseconds", "GB/s", "TFLOP/s", "of the fastest peer"):
        table.add_column(heading, justify="left" if heading in ("operation", "problem", "kernel") else "right")
    for result in results:
        same = [
            other for other in results if (other.operation, other.description) == (result.operation, result.description)
        ]
        table.add_row(result.operation, escape(result.description), escape(result.name), *_bench_cells(result, same))
    console.print(table)
    for result in results:
        if result.failure is not None:
            where = f"{result.operation} {result.name}, {result.description}"
            console.print(f"[red]FAILED[/red] {escape(f'{where}: {result.failure}')}")
    return 1 if failed else 0


def _bench_cells(result: BenchResult, same: list[BenchResult]) -> tuple[str, ...]:
    """Time, rates, and the time of the fastest peer of the same problem over this one's."""
    if result.us is None:
        return "failed", "", "", ""
    peers = [other.us for other in same if other.peer and other.us is not None]
    ratio = f"{min(peers) / result.us:.2f}x" if peers and not result.peer else ""
    teraflops = f"{result.teraflops_per_s:.1f}" if result.teraflops_per_s else ""
    return f"{result.us:.1f}", f"{result.gigabytes_per_s:.0f}", teraflops, ratio


def _first(result: CheckResult, part: int) -> tuple[float, float]:
    """The error of the operation's first result and what is allowed: of the whole (part 0) or of its worst row (1)."""
    return result.errors[0][part], result.tolerances[0][part]


def _share(error_and_allowed: tuple[float, float]) -> float:
    """The error as a share of what is allowed; NaN counts as infinite."""
    error, allowed = error_and_allowed
    if error != error:
        return float("inf")
    return error / allowed if allowed else error


def _error_json(error: RelativeError) -> dict[str, float | None]:
    return {name: value if value == value else None for name, value in error._asdict().items()}


def _result_json(result: CheckResult) -> dict[str, Any]:
    return {
        "operation": result.operation,
        "kernel": result.kernel,
        "case": result.description,
        "dtype": str(result.dtype).removeprefix("torch."),
        "errors": [_error_json(error) for error in result.errors],
        "allowed": [_error_json(allowed) for allowed in result.tolerances],
        "same_bits": result.same_bits,
        "failure": result.failure,
        "passed": result.passed,
    }


def _unchecked(results: list[CheckResult], operations: Sequence[str]) -> list[str]:
    """Kernels that no case fits here, and modules that could not be imported, with the reason."""
    checked = {(result.operation, result.kernel) for result in results}
    missing = []
    for operation in operations or REGISTRY.operations():
        kernels = {kernel.name: kernel for kernel in REGISTRY.operation(operation).kernels()}
        for name, kernel in kernels.items():
            if (operation, name) not in checked:
                platforms = " or ".join(map(str, kernel.platforms))
                missing.append(f"{operation} {name}: no case of the check fits it here (it runs on {platforms})")
        lines = [f"{module.module} {module.reason}" for module in REGISTRY.operation(operation).unavailable()]
        missing += [line for line in lines if line not in missing]
    return missing


def _described(found: dict[str, str]) -> str:
    device, *versions = found.items()
    return ", ".join([device[1], *(f"{name} {version}" for name, version in versions)])


def _console() -> Console:
    """Piped output gets a width at which tables read well."""
    console = Console()
    return console if console.is_terminal else Console(width=132)
