"""What `tokenspeed verify` prints, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokenspeed.cli import main
from tokenspeed.spec.claims.groups import TITLES
from tokenspeed.spec.commands import verify_command
from tokenspeed.spec.commands.drop_command import run_drop
from tokenspeed.spec.commands.export_command import write_diagrams
from tokenspeed.spec.commands.proofs import Report, Row
from tokenspeed.spec.commands.verify_command import INCOMPLETE, run_verify
from tokenspeed.spec.prove.prover import Obligation
from tokenspeed.spec.search.explore import Exploration
from tokenspeed.spec.system import SPEC
from tokenspeed.verify_cli import verify


def test_json_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verify(json_output=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["proved"] is True and report["spec"] == SPEC.digest()
    groups = {p["group"] for p in report["properties"]}
    assert {"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P9", "P10", "P11", "P14"} <= groups
    assert all(p["verdict"] == "proved" and p["obligations"] for p in report["properties"])
    assert all(p["title"] == TITLES[p["group"]] for p in report["properties"] if p["group"] != "lemma")
    assert groups - {"lemma"} == set(TITLES), "every title is one of a group that has something proved"
    assert all(p["meaning"] for p in report["properties"] if p["group"] != "lemma")
    assert report["vacuous_transitions"] == [] and report["exploration"]["violations"] == []


def test_drop_prints_a_timeline_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_drop("release_owned:not in flight") == 1
    printed = capsys.readouterr().out
    assert "VIOLATED no free block in flight" in printed
    assert "False: reads(s0, r0, b0) implies" in printed
    assert "Shortest way from the start: 7 steps" in printed
    assert "the guard would have refused: not in flight" in " ".join(printed.split())
    assert "by the client" in printed


def test_drop_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_drop("observe:device idle", json_output=True) == 1
    diagnosis = json.loads(capsys.readouterr().out)
    assert diagnosis["verdict"] == "violated"
    assert diagnosis["timeline"]["violated"] == "device works on launched steps"


def test_guard_that_only_the_proof_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_drop("send:nothing arriving") == 1
    assert "the proof breaks" in " ".join(capsys.readouterr().out.split())


def test_guard_that_nothing_needs_is_said_to_be_implied(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_drop("fetch_done:block FETCHING") == 0
    assert "the other guards and the invariants imply it" in " ".join(capsys.readouterr().out.split())


def test_without_a_timeline_no_page_is_written_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert run_drop("fetch_done:block FETCHING", html=page) == 0
    assert not page.exists()
    assert f"there is no timeline, so {page} was not written" in capsys.readouterr().err


def test_unknown_guard_suggests_close_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_drop("reap:not in fligt") == 2
    assert "reap:not in flight" in capsys.readouterr().err


def test_diagrams(tmp_path: Path) -> None:
    assert write_diagrams(tmp_path) == 0
    text = (tmp_path / "block_state.mmd").read_text()
    assert text.startswith("stateDiagram-v2")
    assert "OWNED --> LIMBO: release_to_limbo" in text
    assert "[*] --> FREE" in text


def test_verify_runs_without_torch_and_without_the_scheduler() -> None:
    code = (
        "import sys; import tokenspeed.spec.commands.verify_command; "
        "unwanted = ('torch', 'triton', 'tokenspeed.scheduler'); "
        "bad = [m for m in sys.modules if m.startswith(unwanted)]; "
        "sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Report:
    """What the proofs and searches are said to have found: nothing wrong, as long as nothing is put into it."""
    report = Report(SPEC, "z3", exploration=Exploration(SPEC, stale=True))
    monkeypatch.setattr(verify_command, "verify", lambda *_: report)
    return report


def test_an_older_explorer_is_no_failure(found: Report, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verify() == INCOMPLETE
    printed = capsys.readouterr().out
    assert "Everything is proved, and not everything was searched." in printed and "make setup" in printed
    assert "Not everything holds" not in printed
    found.rows.append(Row("P1", "a claim", "", "induction", (Obligation("reap", "a claim", "lemma", "FAILED", 0.0),)))
    assert not found.unrefuted


def test_html_without_a_violation_says_that_nothing_was_written(
    found: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found.unrefuted
    run_verify(html=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    assert "nothing is violated, so" in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, *verify.commands])
def test_help_fits_a_screen_and_shows_an_example(name: str | None) -> None:
    result = CliRunner().invoke(main, ["verify", *([name] if name else []), "--help"])
    assert result.exit_code == 0 and "Example" in result.output
    assert len(result.output.splitlines()) <= 40


def test_options_of_the_proofs_are_no_options_of_other_questions() -> None:
    result = CliRunner().invoke(main, ["verify", "--html", "page.html", "bugs"])
    assert result.exit_code == 2 and "--html is an option of the proofs" in result.output
