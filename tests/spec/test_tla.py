"""The TLA+ modules say all of the specification and of liveness; a TLA+ parser accepts them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tokenspeed.spec.generate.tla import TlaPrinter, identifier
from tokenspeed.spec.generate.tla_liveness import LivenessPrinter, write_tla
from tokenspeed.spec.language.ranking import Stage
from tokenspeed.spec.search.instances import INSTANCES
from tokenspeed.spec.system import SPEC


@pytest.fixture(scope="module")
def module() -> str:
    return TlaPrinter(SPEC, INSTANCES[0]).module()


@pytest.fixture(scope="module")
def liveness() -> str:
    return LivenessPrinter(SPEC, INSTANCES[0]).module()


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


def test_liveness_has_every_stage_and_clause(module: str, liveness: str) -> None:
    named = re.findall(r"^(\w+)(?:\([^)]*\))? ==", liveness, flags=re.MULTILINE)
    assert len(named) == len(set(named)), "no name is defined twice"
    assert not set(named) & set(re.findall(r"^(\w+)(?:\([^)]*\))? ==", module, flags=re.MULTILINE))
    assert set(definition(liveness, "Contract").split()) - {"/\\"} == {identifier(name) for name in SPEC.clauses}
    configuration = LivenessPrinter(SPEC, INSTANCES[0]).configuration()
    asked = configuration.split("INVARIANTS")[1].split("CONSTRAINT")[0].split()
    assert set(asked) - {"PROPERTIES"} <= set(named) and "ACTION_CONSTRAINT Contract" in configuration
    for stage in SPEC.stages.values():
        name = identifier(stage.name)
        assert {f"{name}Kept", f"{name}Covered" if stage.children else f"{name}Served"} <= set(asked)
        helps = definition(liveness, f"{name}Helps") if not stage.children else ""
        for option in stage.cover.options:
            assert f"{option.transition}(" in helps
        assert (f"WF_vars({name}Helps(" in liveness) == (not stage.children)


@pytest.mark.parametrize("stage", SPEC.stages.values(), ids=lambda s: s.name)
def test_a_stage_lies_within_the_one_around_it(liveness: str, stage: Stage) -> None:
    text = definition(liveness, identifier(stage.name))
    assert f"{identifier(stage.name)}Itself(" in text
    assert stage.parent is None or f"{identifier(stage.parent.name)}(" in text


def test_no_name_is_bound_twice(liveness: str) -> None:
    """TLA+ has no shadowing: along every line, a quantifier's name is new."""
    declared = set(re.findall(r"^(\w+)(?:\([^)]*\))? ==", liveness, flags=re.MULTILINE)) | set(SPEC.variables)
    for head, body in re.findall(r"^(\w+(?:\([^)]*\))?) ==(.*?)\n\n", liveness, flags=re.MULTILINE | re.DOTALL):
        own = set(re.findall(r"\w+", head.partition("(")[2]))
        for line in body.splitlines():
            bound = re.findall(r"\\[AE] (\w+) \\in", line)
            assert not (own | declared) & set(bound), line


def test_brackets_are_balanced(module: str, liveness: str) -> None:
    text = re.sub(r"\\\*.*", "", module + liveness)
    for opening, closing in ("()", "[]", "{}"):
        assert text.count(opening) == text.count(closing)


def test_every_constant_has_a_value(module: str) -> None:
    declared = re.findall(r"^CONSTANTS (.*)$", module, flags=re.MULTILINE)[0].split(", ")
    given = re.findall(r"^  (\w+) = ", TlaPrinter(SPEC, INSTANCES[0]).configuration(), flags=re.MULTILINE)
    assert sorted(declared) == sorted(given)


def test_a_parser_of_tla_reads_it(tmp_path: Path) -> None:
    parser = pytest.importorskip("tree_sitter", reason="no parser of TLA+: make test installs it")
    grammar = pytest.importorskip("tree_sitter_tlaplus", reason="no parser of TLA+: make test installs it")
    modules = [path for path in write_tla(SPEC, tmp_path) if path.suffix == ".tla"]
    assert len(modules) == 2
    for path in modules:
        tree = parser.Parser(parser.Language(grammar.language())).parse(path.read_bytes())
        assert not tree.root_node.has_error, path.name


@pytest.mark.skipif(shutil.which("tlc") is None, reason="the model checker TLC is not installed")
@pytest.mark.parametrize("module", ["TokenSpeed", "TokenSpeedLiveness"])
def test_tlc_reads_it(tmp_path: Path, module: str) -> None:
    write_tla(SPEC, tmp_path)
    answer = subprocess.run(
        ["tlc", "-deadlock", "-depth", "5", "-simulate", "num=20", module],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Error" not in answer.stdout, answer.stdout
