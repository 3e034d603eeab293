"""`tokenspeed verify binary`: what it says about the installed binary, about others, and its exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tokenspeed.cli import main
from tokenspeed.spec.conform import binary
from tokenspeed.spec.conform.binary import SCHEDULER, BinaryError, ask_binary, check_binary, find_binary
from tokenspeed.spec.conform.translation import validate
from tokenspeed.spec.system import SPEC

LINKS = ["specification", "transitions", "generated sources", "translation", "integer bounds", "single writer"]


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    return ask_binary(find_binary())


@pytest.fixture
def without_proofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proofs have tests of their own."""
    monkeypatch.setattr(binary, "_translation", lambda *_: binary.Check("translation", True, "not proved in this test"))
    monkeypatch.setattr(binary, "_bounds", lambda *_: binary.Check("integer bounds", True, "not proved in this test"))


@pytest.fixture
def release_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both builds are proved in test_translation.py; one is enough to see what is printed."""
    monkeypatch.setattr(binary, "validate", lambda spec, sources: validate(spec, sources, [False]))


@pytest.mark.usefixtures("release_only")
def test_the_installed_binary_is_what_the_specification_says() -> None:
    result = CliRunner().invoke(main, ["verify", "binary"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert str(find_binary()) in result.output.replace("\n", "")
    assert f"SHA-256 {SPEC.digest()[:16]}" in text and "proved by z3" in text
    assert all(f"ok {link}:" in text for link in LINKS)
    assert "Everything that was checked holds." in text and "FAILED" not in text


@pytest.mark.usefixtures("without_proofs")
def test_json(answer: dict[str, Any]) -> None:
    result = CliRunner().invoke(main, ["verify", "binary", str(find_binary()), "--json"])
    report = json.loads(result.output)
    assert report["good"] is True and report["checked_build"] is answer["CHECKED"]
    assert [c["what"] for c in report["checks"]] == LINKS


@pytest.mark.usefixtures("without_proofs")
def test_another_specification_gives_both_hashes_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr(
        "tokenspeed.spec.commands.binary_command.ask_binary", lambda _: answer | {"SPEC_HASH": "ab" * 32}
    )
    result = CliRunner().invoke(main, ["verify", "binary"])
    assert result.exit_code == 1
    assert "FAILED specification: differs; run: make setup" in result.output
    assert f"the binary: {'ab' * 32}" in result.output and f"this specification: {SPEC.digest()}" in result.output
    assert "Not everything holds." in result.output


@pytest.mark.usefixtures("without_proofs")
def test_other_transitions_are_named(answer: dict[str, Any]) -> None:
    first, *others = answer["TRANSITIONS"]
    check = check_binary(SPEC, answer | {"TRANSITIONS": [*others, "teleport"]})[1]
    assert check.good is False
    assert check.details == ["only in the binary: teleport", f"only in the specification: {first}"]
    assert check_binary(SPEC, answer | {"TRANSITIONS": [*others, first]})[1].details == ["the order differs"]


def copied_scheduler(folder: Path) -> Path:
    shutil.copytree(SCHEDULER, folder / "scheduler", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder / "scheduler"


@pytest.mark.usefixtures("without_proofs")
def test_sources_that_were_not_compiled_are_noticed(answer: dict[str, Any], tmp_path: Path) -> None:
    folder = copied_scheduler(tmp_path)
    assert all(c.good for c in check_binary(SPEC, answer, folder))
    with (folder / "generated/machine.cpp").open("a") as code:
        code.write("// edited\n")
    sources = check_binary(SPEC, answer, folder)[2]
    assert sources.good is False and "make generated setup" in sources.found
    assert f"the binary: {answer['SOURCE_HASH']}" in sources.details
    assert check_binary(SPEC, answer | {"SOURCE_HASH": None}, folder)[2].good is False


@pytest.mark.usefixtures("release_only")
def test_a_wrong_translation_is_an_error_with_file_and_line(answer: dict[str, Any], tmp_path: Path) -> None:
    folder = copied_scheduler(tmp_path)
    code = folder / "generated/machine.cpp"
    text = code.read_text()
    at = text.index("    record(Transition::reap")
    code.write_text(text[:at] + text[at:].replace("Transition::reap", "Transition::evict", 1))
    check = next(c for c in check_binary(SPEC, answer, folder) if c.what == "translation")
    assert check.good is False
    assert any(d.startswith(f"machine.cpp:{text[:at].count(chr(10)) + 1}: ") for d in check.details), check.details


@pytest.mark.usefixtures("without_proofs")
def test_without_sources_it_says_what_was_not_checked(answer: dict[str, Any], tmp_path: Path) -> None:
    checks = check_binary(SPEC, answer, tmp_path)
    assert [c.good for c in checks] == [True, True, None]
    assert "machine.h" in checks[-1].found and "clone" in checks[-1].found


def test_what_is_no_scheduler_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BinaryError, match="is no file"):
        ask_binary(tmp_path / "missing.so")
    (tmp_path / "_core.so").write_text("no binary")
    with pytest.raises(BinaryError, match="is no extension module"):
        ask_binary(tmp_path / "_core.so")
    other = next(p for p in find_binary().parent.parent.glob("spec/search/_explorer*.so"))
    with pytest.raises(BinaryError, match="it is no scheduler of this project"):
        ask_binary(other)
    for path in (tmp_path / "missing.so", tmp_path / "_core.so", other):
        result = CliRunner().invoke(main, ["verify", "binary", str(path)])
        assert result.exit_code == 2 and "make setup" not in result.output
