"""The command line: options are checked, missing packages are explained, and nothing heavy is imported too early."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tokenspeed import __version__
from tokenspeed.cli import byte_size, main
from tokenspeed.missing_dependency import explained_missing_dependency

HEAVY = ("torch", "z3", "simpy", "plotly", "fastapi", "transformers")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_version_matches_the_package() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert (result.exit_code, result.output) == (0, f"tokenspeed {__version__}\n")


def test_help_names_every_verb() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for verb in ("verify", "simulate", "serve", "kernels", "version"):
        assert f"\n  {verb} " in result.output


def test_module_runs_like_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "tokenspeed", "version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"tokenspeed {__version__}\n"


def test_command_line_imports_no_verb() -> None:
    code = f"import sys, tokenspeed.cli; print([m for m in sys.modules if m.partition('.')[0] in {HEAVY}])"
    assert run_python(code).stdout.strip() == "[]"


@pytest.mark.parametrize("folder", ["spec.commands.verify_command", "simulator.command"])
def test_verify_and_simulate_do_not_import_torch(folder: str) -> None:
    result = run_python(f"import sys, tokenspeed.{folder}; print('torch' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_serve_without_torch_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['tokenspeed', 'serve'];"
        "from tokenspeed.cli import main; main()"
    )
    result = run_python(code)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "`torch`" in result.stderr
    assert "pip install 'tokenspeed[serve]'" in result.stderr


def test_our_own_missing_module_is_not_blamed_on_the_environment() -> None:
    with pytest.raises(ModuleNotFoundError), explained_missing_dependency():
        raise ModuleNotFoundError("No module named 'tokenspeed.scheduler._core'", name="tokenspeed.scheduler._core")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1024", 1024), ("1KiB", 1024), ("1.5 kib", 1536), ("2GiB", 2 * 2**30), ("2GB", 2 * 10**9), (" 7B ", 7)],
)
def test_byte_size(text: str, expected: int) -> None:
    assert byte_size(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "2x", "1GiBs", "1,5GiB"])
def test_byte_size_names_the_bad_value(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size"):
        byte_size(text)
