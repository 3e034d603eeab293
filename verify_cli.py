"""The command `tokenspeed verify`: proofs, and beside them a sub-command for each other question about the scheduler.

A sub-command of another folder joins the group with `@verify.command()`, where that folder may be imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .missing_dependency import explained_missing_dependency

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON instead of tables.")
as_page = click.option("--html", type=FILE, metavar="FILE", help="Also write the timeline as a page to step through.")


def examples(*lines: str) -> str:
    """The end of a help text: commands to try."""
    return "\b\nExamples:\n" + "\n".join(f"  tokenspeed verify {line}".rstrip() for line in lines)


@click.group(
    invoke_without_command=True,
    epilog=examples("", "--solver cvc5", "drop 'reap:not in flight'", "bug freed-under-overlap"),
)
@as_json
@as_page
@click.option("--solver", type=click.Choice(["z3", "cvc5"]), default="z3", help="Who decides the obligations.")
@click.pass_context
def verify(context: click.Context, json_output: bool, html: Path | None, solver: str) -> None:
    """Prove the scheduler's specification for any number of requests, blocks and steps.

    Exit status: 0 if everything holds, 1 if something does not, 3 if nothing is wrong but not all could be looked at.
    """
    if context.invoked_subcommand is not None:
        given = [f"--{name}" for name, value in (("json", json_output), ("html", html)) if value]
        given += ["--solver"] if solver != "z3" else []
        if given:
            where = f"write it behind {context.invoked_subcommand}, if that has it"
            raise click.UsageError(f"{given[0]} is an option of the proofs; {where}")
        return
    with explained_missing_dependency("cvc5" if solver == "cvc5" else ""):
        from .spec.commands.verify_command import run_verify

        status = run_verify(json_output, solver, html)
    sys.exit(status)


@verify.command(epilog=examples("drop 'release_owned:not in flight'", "drop 'reap:not in flight' --html drop.html"))
@click.argument("guard", metavar="TRANSITION:GUARD")
@as_json
@as_page
def drop(guard: str, **options: Any) -> None:
    """Remove one guard and show what breaks, with the shortest trace as a timeline.

    Exit status: 1 if something breaks, 0 if the guard is not needed, 2 if there is no such guard.
    """
    with explained_missing_dependency():
        from .spec.commands.drop_command import run_drop

        status = run_drop(guard, **options)
    sys.exit(status)


@verify.command(epilog=examples("bugs"))
@as_json
def bugs(json_output: bool) -> None:
    """List historic bugs of LLM schedulers, each a change of the specification."""
    with explained_missing_dependency():
        from .spec.commands.museum_command import list_bugs

        status = list_bugs(json_output)
    sys.exit(status)


@verify.command(epilog=examples("bug freed-under-overlap", "bug freed-under-overlap --html bug.html"))
@click.argument("name")
@as_json
@as_page
def bug(name: str, **options: Any) -> None:
    """Put one historic bug back in and show what happens, as a timeline.

    Exit status: 0 if it is shown, 1 if it does no harm any more, 2 if there is no such bug.
    """
    with explained_missing_dependency():
        from .spec.commands.museum_command import show_bug

        status = show_bug(name, **options)
    sys.exit(status)


@verify.command(epilog=examples("mutants", "mutants --every 20"))
@click.option("--every", default=1, type=click.IntRange(min=1), help="Judge only each so-many-th mutant.")
@as_json
def mutants(every: int, json_output: bool) -> None:
    """Change every guard and effect a little and count what is noticed; some minutes for all.

    Exit status: 0 if nothing named misses any mutant and every clause of the contract is needed, else 1.
    """
    with explained_missing_dependency():
        from .spec.commands.mutants_command import run_mutants

        status = run_mutants(json_output, every)
    sys.exit(status)


@verify.command(epilog=examples("lockstep", "lockstep --states 10000000", "lockstep --thorough"))
@click.option("--states", default=200_000, type=click.IntRange(min=1), help="States of each instance to compare.")
@click.option("--thorough", is_flag=True, help="Every refusal in every state, and the properties too.")
@click.option("--through-python", is_flag=True, help="Python asks the scheduler, batch by batch.")
@as_json
def lockstep(states: int, thorough: bool, through_python: bool, json_output: bool) -> None:
    """Compare the compiled scheduler with the specification, state by state.

    Exit status: 0 if they agree, 1 if not, 3 if they agree but some transition was accepted in no state compared.
    """
    with explained_missing_dependency():
        from .scheduler import STATE_ACCESS, StateMachine
        from .spec.commands.lockstep_command import run_lockstep

        machine = StateMachine if through_python else STATE_ACCESS
        status = run_lockstep(machine, states, json_output, thorough=thorough)
    sys.exit(status)


@verify.command(epilog=examples("binary", "binary path/to/_core.so --json"))
@click.argument("path", required=False, type=FILE)
@as_json
def binary(path: Path | None, json_output: bool) -> None:
    """Check that the compiled scheduler (or the one at PATH) is what the specification says.

    Exit status: 0 if nothing differs, 1 if something does, 2 if there is no such scheduler.
    """
    with explained_missing_dependency():
        from .spec.commands.binary_command import run_binary

        status = run_binary(path, json_output)
    sys.exit(status)


@verify.command(epilog=examples("trace run.tstrace"))
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@as_json
def trace(path: Path, json_output: bool) -> None:
    """Check what a scheduler recorded (simulate or serve --record-trace) against the specification.

    Exit status: 0 if all is allowed, 1 if an event is not, 2 if the file is no complete trace.
    """
    with explained_missing_dependency():
        from .spec.commands.trace_command import run_trace

        status = run_trace(path, json_output)
    sys.exit(status)


@verify.command(epilog=examples("diagram diagrams"))
@click.argument("folder", metavar="DIR", type=FOLDER)
def diagram(folder: Path) -> None:
    """Write the state diagrams of requests, blocks, steps, host pages and copies into DIR (Mermaid)."""
    _write("write_diagrams", folder)


@verify.command(epilog=examples("smtlib obligations"))
@click.argument("folder", metavar="DIR", type=FOLDER)
def smtlib(folder: Path) -> None:
    """Write every obligation into DIR as SMT-LIB 2.6, for any solver."""
    _write("write_smtlib", folder)


@verify.command(epilog=examples("tla model"))
@click.argument("folder", metavar="DIR", type=FOLDER)
def tla(folder: Path) -> None:
    """Write the specification into DIR as TLA+ modules with a small instance, for TLC."""
    _write("write_tla", folder)


def _write(what: str, folder: Path) -> None:
    """Export into the folder. Exit status: 2 if it cannot be written."""
    with explained_missing_dependency():
        from .spec.commands import export_command

        status: int = getattr(export_command, what)(folder)
    sys.exit(status)
