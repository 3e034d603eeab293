"""The command `tokenspeed`: parses options and calls one function per verb.

Each verb imports its folder only when it runs, so that `verify` and `simulate` never import torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from . import __version__
from .engine.options import ServeOptions
from .missing_dependency import explained_missing_dependency
from .verify_cli import FOLDER, as_json, examples, verify

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110}


MAX_BLOCKS = 2**31 - 1
MAX_HOST_GIB = 65_536

SIZE_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def byte_size(text: str) -> int:
    """Bytes of a number with an optional unit, like 512MiB, 2GiB or 1500000000. Raises click.BadParameter."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in SIZE_UNITS:
        raise click.BadParameter(f"{text!r} is not a size; write for example 512MiB, 2GiB or a number of bytes")
    return int(float(match[1]) * SIZE_UNITS[match[2].upper()])


def host_gib(text: str) -> float:
    """Read an amount of host memory in GiB, at most 64 TiB."""
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size <= MAX_HOST_GIB:
        raise click.BadParameter(f"{text!r} is no number of GiB from 0 to {MAX_HOST_GIB}")
    return size


def max_context(text: str) -> int | str:
    """Read a number of tokens, or the words model and none."""
    return int(text) if text.isascii() and text.isdigit() else text


@click.group(context_settings=CONTEXT_SETTINGS)
def main() -> None:
    """One LLM scheduler for coding agents: prove it, simulate with it, serve with it."""


main.add_command(verify)


@verify.command(epilog=examples("spmd", "spmd --bug tokenspeed-0.1.1-attention-2x2", "spmd --smtlib obligations"))
@click.option("--smtlib", type=FOLDER, metavar="DIR", help="Write the theorems into DIR as SMT-LIB instead.")
@click.option("--bug", metavar="NAME", help="Show what happens to the ranks under another compiler's wrong plan.")
@click.option("--processes", default=2, type=click.IntRange(min=1), help="Processes that check mappings and mutants.")
@as_json
def spmd(smtlib: Path | None, bug: str | None, processes: int, json_output: bool) -> None:
    """Prove that models spread over ranks equal one device: placements, collectives, mappings, mutants.

    Exit status: 0 if everything holds, 1 if something does not, 2 for a bug that is not known.
    """
    with explained_missing_dependency():
        from .engine.spmd.commands.verify_command import run_verify_spmd

        status = run_verify_spmd(json_output, smtlib=smtlib, bug=bug, processes=processes)
    sys.exit(status)


@main.command()
def version() -> None:
    """Print the version of tokenspeed."""
    click.echo(f"tokenspeed {__version__}")


@main.command()
@click.option("--workload", default="swe-agent", help="A trace file, or a preset: swe-agent or claude-code.")
@click.option("--model", default="kimi-k2", help="smollm2-135m, llama-3-8b, llama-3.1-8b, deepseek-v3 or kimi-k2.")
@click.option("--gpu", default="b200", help="Datasheet: h100, h200 or b200.")
@click.option("--tp", default=4, type=click.IntRange(min=1), help="GPUs per replica (tensor parallelism).")
@click.option("--replicas", default=1, type=click.IntRange(min=1), help="Replicas that share the load.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Same seed, same bytes.")
@click.option(
    "--limit",
    "--sessions",
    type=click.IntRange(min=1),
    help="Take only the first so many sessions (open loop: requests).  [default: all; presets: 32]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Sessions alive at once.  [default: 8 for swe-agent, 4 for recorded sessions, no limit for arrival times]",
)
@click.option("--sample", type=click.IntRange(min=1), help="Draw so many sessions of a trace at random, with --seed.")
@click.option("--think-cap", default=60.0, type=click.FloatRange(min=0), help="Longest think or tool time, seconds.")
@click.option("--skip-bad", is_flag=True, help="Leave out records of a trace that cannot be read, and say how many.")
@click.option("--time-unit", default="auto", help="What a trace's times count: auto, ms or s.")
@click.option("--block-ids", default="prefixes", help="What a trace's block ids name: prefixes or contents.")
@click.option("--trace-block-size", type=click.IntRange(min=1), help="Tokens for each id of Mooncake lines.  [512]")
@click.option("--block-size", default=64, type=click.IntRange(min=1), help="Tokens per KV block.")
@click.option("--max-step-tokens", default=8192, type=click.IntRange(min=1), help="Token budget of one step.")
@click.option("--max-running", default=256, type=click.IntRange(min=1), help="Requests that may run at once.")
@click.option("--overlap-depth", default=1, type=click.IntRange(0, 1), help="Steps in flight while one is planned.")
@click.option("--num-blocks", type=click.IntRange(1, MAX_BLOCKS), help="KV blocks per replica.  [default: what fits]")
@click.option("--usable-memory", default=0.9, type=float, help="Share of GPU memory for weights and KV cache.")
@click.option("--max-context", default="model", type=max_context, help="Longest call, tokens: a number, model or none.")
@click.option("--host-gib", default=0.0, type=host_gib, help="Host memory for KV per replica, GiB.")
@click.option(
    "--host-blocks", type=click.IntRange(0, MAX_BLOCKS), help="The same in KV blocks.  [default: from --host-gib]"
)
@click.option("--policy", default="default", help="Who is admitted, retracted, evicted and copied: default, lru, ...")
@click.option("--router", default="session", help="Which replica serves: session, round-robin, least-load, prefix.")
@click.option(
    "--outage",
    "outages",
    multiple=True,
    metavar="REPLICA:FROM-TO[:drain]",
    help="A replica fails, or is drained, between two times in seconds. May be given several times.",
)
@click.option("--cost", default="roofline", help="roofline, or a file with measured or recorded step times.")
@click.option("--weights", default="auto", help="bf16, fp8 or fp4; auto takes the first of these that fits.")
@click.option("--kv-dtype", default="auto", help="bf16 or fp8; auto takes fp8 unless the weights are bf16.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write CSV, an HTML report and a Perfetto trace into DIR.",
)
@click.option(
    "--record-trace",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Record every transition for verify trace; with several replicas one FILE each, numbered.",
)
@click.option("--explain", is_flag=True, help="Show where the time of the steps goes.")
def simulate(out: Path | None, record_trace: Path | None, explain: bool, **settings: Any) -> None:
    """Run a workload on simulated GPUs that are driven by the compiled scheduler."""
    with explained_missing_dependency():
        from .simulator.command import run_simulate

        status = run_simulate(settings, out, record_trace, explain)
    sys.exit(status)


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for tables and the report."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one for each core]")
def study(file: Path, out: Path, workers: int | None) -> None:
    """Simulate every combination of policies, settings and seeds in FILE (TOML), and compare them.

    A study that was stopped goes on where it was.
    """
    with explained_missing_dependency():
        from .simulator.sweep.command import run_study_file

        status = run_study_file(file, out, workers)
    sys.exit(status)


def serve_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of ServeOptions."""
    hints = get_type_hints(ServeOptions, include_extras=True)
    for item in reversed(fields(ServeOptions)):
        [kind, about] = get_args(hints[item.name])
        [kind, *_] = [part for part in get_args(kind) or [kind] if part is not type(None)]
        settings: dict[str, Any] = {"help": about.help, "default": item.default}
        if about.shown:
            settings["help"] += f"  [default: {about.shown}]"
        if kind is bool:
            settings |= {"flag_value": not item.default, "type": bool, "show_default": False, "is_flag": True}
        elif about.choices:
            settings["type"] = click.Choice(about.choices)
        elif about.size:
            settings |= {"type": byte_size, "metavar": "SIZE"}
            settings |= {} if item.default is None else {"default": size_text(item.default)}
        elif kind is Path:
            settings |= {"type": click.Path(dir_okay=False, path_type=Path), "metavar": "FILE"}
        elif kind in (int, float):
            number = click.IntRange if kind is int else click.FloatRange
            settings |= {"type": number(about.low, about.high), "metavar": "N"}
        command = click.option(about.flag or f"--{item.name.replace('_', '-')}", item.name, **settings)(command)
    return command


def size_text(size: int) -> str:
    """Bytes as `byte_size` reads them."""
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "") if size % SIZE_UNITS[unit.upper()] == 0)
    return f"{size // SIZE_UNITS[unit.upper()]}{unit}" if size else "0"


PARALLEL_OPTIONS = (
    ("--tp", 1, "Ranks that share each attention layer, by heads."),
    ("--dp", 1, "Groups of these, each with requests and a cache of its own."),
    ("--ep", 1, "Ranks that share the experts, whole experts each."),
    ("--expert-tp", None, "Ranks that share each expert, by width.  [default: what --ep leaves of all ranks]"),
    ("--dense-tp", None, "Ranks that share each feed-forward layer without experts.  [default: --tp]"),
    ("--vocab-tp", None, "Ranks that share the embedding and the output head.  [default: --tp]"),
)
"""Sizes of the axes over which a model is spread: option, default, help."""


def parallel_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of `engine.spmd.mesh.Parallelism`."""
    for name, default, text in reversed(PARALLEL_OPTIONS):
        option = click.option(name, default=default, type=click.IntRange(min=1), help=text)
        command = option(command)
    return command


@main.command(epilog="Example: tokenspeed plan --model deepseek-v2-lite --tp 2 --dp 2 --ep 4")
@click.option(
    "--model", required=True, help="A directory with a config.json, such a file, or a published model's name."
)
@parallel_options
@click.option("--tokens", default=512, type=click.IntRange(min=1), help="Tokens of a step, over all ranks.")
@click.option("--value-bytes", default=2, type=click.IntRange(1, 4), help="Bytes of a weight and of a cached value.")
@click.option("--compare/--no-compare", default=True, help="Also price other mappings of as many ranks.")
@click.option("--json", "json_output", is_flag=True, help="Print the plan as JSON instead of tables.")
def plan(model: str, tokens: int, value_bytes: int, compare: bool, json_output: bool, **sizes: int | None) -> None:
    """Show how a model is spread over ranks: its collectives and why, memory, and what other mappings cost.

    Needs neither a GPU nor weights.
    """
    with explained_missing_dependency():
        from .engine.spmd.commands.plan_command import run_plan
        from .engine.spmd.mesh import Parallelism

        parallelism = Parallelism(**sizes)  # type: ignore[arg-type]
        status = run_plan(
            model, parallelism, tokens=tokens, value_bytes=value_bytes, compare=compare, json_output=json_output
        )
    sys.exit(status)


@main.command(epilog="Example: tokenspeed serve --model smollm2 --kv-memory 2GiB")
@serve_options
def serve(**options: Any) -> None:
    """Serve a model over HTTP."""
    with explained_missing_dependency("serve"):
        from .engine.command import run_serve

        status = run_serve(ServeOptions(**options))
    sys.exit(status)


@main.command()
@click.option("--check", is_flag=True, help="Check the numerics of every kernel on this machine's device.")
@click.option("--bench", is_flag=True, help="Measure every kernel on this machine's device, beside its reference.")
@click.option("--json", "json_output", is_flag=True, help="Print JSON instead of tables.")
@click.argument("operations", nargs=-1)
def kernels(check: bool, bench: bool, json_output: bool, operations: tuple[str, ...]) -> None:
    """List the registered kernels, and what is chosen on this machine and why.

    With --check the exit status is 0 only if every kernel that runs here is right, with --bench only if every one could
    be measured. OPERATIONS restricts both to some.
    """
    if check and bench:
        raise click.UsageError("--check and --bench are two commands; give one of them")
    if operations and not (check or bench):
        raise click.UsageError("OPERATIONS restricts --check and --bench; give one of them")
    with explained_missing_dependency("serve"):
        from .kernels.workbench.command import run_kernels

        status = run_kernels(check, json_output, bench, operations)
    sys.exit(status)


@main.command(epilog="Example: tokenspeed profile --model DIRECTORY --load-format dummy --out llama-3.1-8b_h200.csv")
@click.option("--model", default="smollm2", help="A GGUF file, a Hugging Face directory, or smollm2.")
@click.option("--load-format", default="auto", type=click.Choice(["auto", "dummy"]), help="dummy: random weights.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write.")
@click.option("--device-name", help="The device in the simulator's words.  [default: its own last word]")
@click.option("--model-name", help="The model in the simulator's words.  [default: the checkpoint's name]")
@click.option("--max-running", default=128, type=click.IntRange(min=1), help="Most decoding rows.")
@click.option("--max-step-tokens", default=8192, type=click.IntRange(min=1), help="Longest chunk of a prompt.")
@click.option("--max-context", default=131072, type=click.IntRange(min=1), help="Longest context, if the model has it.")
@click.option("--block-size", default=64, type=click.IntRange(min=1), help="Tokens per KV block.")
def profile(**options: Any) -> None:
    """Measure whole steps on the device at hand, as a table that simulate --cost reads."""
    with explained_missing_dependency("serve"):
        from .engine.profiling.command import run_profile

        try:
            status = run_profile(**options)
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
    sys.exit(status)
