"""The TLA+ module says all of the specification; a TLA+ parser, where there is one, accepts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tokenspeed.spec.instances import INSTANCES
from tokenspeed.spec.machines import SPEC
from tokenspeed.spec.tlaplus import TlaPrinter, write_tla


@pytest.fixture(scope="module")
def module() -> str:
    return TlaPrinter(SPEC, INSTANCES[0]).module()


def definition(module: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}(\([^)]*\))? ==(.*?)\n\n", module, flags=re.MULTILINE | re.DOTALL)
    assert found, name
    return found.group(2)


@pytest.mark.parametrize("transition", SPEC.transitions.values(), ids=lambda t: t.name)
def test_every_action_gives_every_variable_one_next_value(module: str, transition: object) -> None:
    text = definition(module, transition.name)  # type: ignore[attr-defined]
    assigned = re.findall(r"^  /\\ (\w+)' =", text, flags=re.MULTILINE)
    unchanged = re.findall(r"UNCHANGED <<(.*?)>>", text)[0].split(", ")
    assert sorted(assigned + unchanged) == sorted(SPEC.variables)


def test_all_transitions_and_properties_are_there(module: str) -> None:
    steps = definition(module, "Next")
    assert len(re.findall(r"^  \\/ ", steps, flags=re.MULTILINE)) == len(SPEC.transitions)
    named = re.findall(r"^(\w+) == ", module, flags=re.MULTILINE)
    assert len(named) == len(set(named)), "no name is defined twice"
    configuration = TlaPrinter(SPEC, INSTANCES[0]).configuration()
    asked = configuration.split("INVARIANTS")[1].split("CONSTRAINT")[0].split()
    assert len(set(asked) - {"TypeOK", "PROPERTIES"}) == len(SPEC.properties)
    assert set(asked) - {"TypeOK", "PROPERTIES"} <= set(named)


def test_brackets_are_balanced(module: str) -> None:
    text = re.sub(r"\\\*.*", "", module)
    for opening, closing in ("()", "[]", "{}"):
        assert text.count(opening) == text.count(closing)


def test_every_constant_has_a_value(module: str) -> None:
    declared = re.findall(r"^CONSTANTS (.*)$", module, flags=re.MULTILINE)[0].split(", ")
    given = re.findall(r"^  (\w+) = ", TlaPrinter(SPEC, INSTANCES[0]).configuration(), flags=re.MULTILINE)
    assert sorted(declared) == sorted(given)


def test_a_parser_of_tla_reads_it(tmp_path: Path) -> None:
    parser = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_tlaplus")
    path, _ = write_tla(SPEC, tmp_path)
    tree = parser.Parser(parser.Language(grammar.language())).parse(path.read_bytes())
    assert not tree.root_node.has_error


@pytest.mark.skipif(shutil.which("tlc") is None, reason="the model checker TLC is not installed")
def test_tlc_reads_it(tmp_path: Path) -> None:
    write_tla(SPEC, tmp_path)
    answer = subprocess.run(
        ["tlc", "-deadlock", "-depth", "5", "-simulate", "num=20", "TokenSpeed"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Error" not in answer.stdout, answer.stdout
