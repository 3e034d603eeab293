"""Two solvers, asked in two ways, give the same answers: about the specification and about damaged copies of it.

z3 gets terms in which invariants are instantiated; cvc5 gets SMT-LIB text in which they are quantified.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import z3
from click.testing import CliRunner

from tokenspeed.cli import main
from tokenspeed.spec.commands.export_command import write_smtlib
from tokenspeed.spec.commands.verify_command import run_verify
from tokenspeed.spec.language.expressions import BOOL, Expr
from tokenspeed.spec.language.spec import Spec, Transition
from tokenspeed.spec.prove import second_solver
from tokenspeed.spec.prove.proofs import decider
from tokenspeed.spec.prove.prover import Obligation, Prover
from tokenspeed.spec.prove.second_solver import Cvc5Prover
from tokenspeed.spec.prove.smtlib import Exporter, Script, export
from tokenspeed.spec.search.explore import Exploration, survey
from tokenspeed.spec.system import SPEC


def mutants() -> Iterator[tuple[str, Transition]]:
    """Every transition without one of its guards, or without one of its effects."""
    for t in SPEC.transitions.values():
        for i, guard in enumerate(t.guards):
            yield f"{t.name}: no guard {guard.name!r}", dataclasses.replace(t, guards=t.guards[:i] + t.guards[i + 1 :])
        for i, effect in enumerate(t.effects):
            left = t.effects[:i] + t.effects[i + 1 :]
            yield f"{t.name}: no effect on {effect.variable.name}", dataclasses.replace(t, effects=left)


ALL_MUTANTS = list(mutants())
SAMPLE = ALL_MUTANTS if os.environ.get("TOKENSPEED_ALL_MUTANTS") else ALL_MUTANTS[::16]  # `make second-solver`: all


def answers(obligations: list[Obligation]) -> dict[tuple[str, str, str], str]:
    found = {(o.subject, o.claim, o.kind): o.verdict for o in obligations}
    assert len(found) == len(obligations), "each obligation has a name of its own"
    return found


@functools.cache
def everything(solver: str) -> dict[tuple[str, str, str], str]:
    prover = decider(SPEC, solver)
    obligations = prover.prove_initial() + prover.prove_parts()
    for transition in SPEC.transitions.values():
        obligations += [*prover.prove_transition(transition), prover.vacuous(transition)]
    for choice in SPEC.choices:
        obligations += prover.prove_choice(choice)
    obligations += [prover.prove_progress(claim) for claim in SPEC.progress.values()]
    for subject in (None, *SPEC.transitions.values()):
        obligations += prover.prove_stages(subject)
    return answers(obligations)


def test_both_solvers_prove_every_obligation() -> None:
    first, second = everything("z3"), everything("cvc5")
    assert first == second
    assert set(second.values()) == {"proved", "possible"}


@pytest.mark.parametrize("mutant", [m for _, m in SAMPLE], ids=[name for name, _ in SAMPLE])
def test_both_solvers_find_the_same_claims_broken(mutant: Transition) -> None:
    first, second = Prover(SPEC), Cvc5Prover(SPEC)
    found = answers(first.prove_transition(mutant))
    assert answers(second.prove_transition(mutant)) == found
    assert set(found.values()) <= {"proved", "FAILED"}, "both always answer"
    assert second.vacuous(mutant).verdict == first.vacuous(mutant).verdict == "possible"


def test_the_sample_has_many_mutants_that_break_something() -> None:
    """What the test above compares is not all "proved"."""
    prover = Prover(SPEC)
    broken = [name for name, mutant in SAMPLE if "FAILED" in answers(prover.prove_transition(mutant)).values()]
    assert len(broken) >= 12


def test_both_solvers_find_a_missing_and_a_double_choice() -> None:
    choice = next(c for c in SPEC.choices if len(c.transitions) > 2)
    first_two = f"{choice.transitions[0]} or abort, not both"
    for transitions, broken in [
        (choice.transitions[1:], "one is possible"),
        ((*choice.transitions, "abort"), first_two),
    ]:
        changed = dataclasses.replace(choice, transitions=transitions)
        found = answers(Cvc5Prover(SPEC).prove_choice(changed))
        assert found == answers(Prover(SPEC).prove_choice(changed))
        assert found[choice.name, broken, "choice"] == "FAILED"


def counters(start: int, part: bool) -> Spec:
    """Red balls are counted by `reds`, from `start`; `others` is declared as a part of them, which it is or is not."""
    spec = Spec("counters")
    ball = spec.sort("Ball", "b")
    red = spec.variable("red", ball, of=BOOL, init=False, doc="")
    big = spec.variable("big", ball, of=BOOL, init=False, doc="")
    reds = spec.count("reds", over=ball, of=lambda b: red(b), init=start, doc="")
    spec.count("others", over=ball, of=lambda b: red(b) & big(b) if part else big(b), part_of=reds, doc="")
    return spec


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("part", [True, False])
def test_both_solvers_check_how_counters_are_declared(start: int, part: bool) -> None:
    spec = counters(start, part)
    for prover in (Prover(spec), Cvc5Prover(spec)):
        assert answers(prover.prove_initial()) == {
            ("initial state", "count reds", "count"): "proved" if start == 0 else "FAILED",
            ("initial state", "count others", "count"): "proved",
        }
        assert [o.proved for o in prover.prove_parts()] == [part]


def test_a_two_state_property_is_checked_where_nothing_that_it_reads_changes() -> None:
    spec = Spec("switch")
    lamp = spec.sort("Lamp", "l")
    on = spec.variable("on", lamp, of=BOOL, init=False, doc="")
    seen = spec.variable("seen", lamp, of=BOOL, init=False, doc="")

    @spec.transition(x=lamp)
    def look(t: Transition, x: Expr) -> None:
        t.guard("unseen", ~seen(x))
        t.set(seen[x], True)

    @spec.action("P", x=lamp)
    def nobody_looks_at_a_lamp_that_is_off(x: Expr) -> Expr:
        return on(x) | ~Expr("taken", "look", type=BOOL)

    for prover in (Prover(spec), Cvc5Prover(spec)):
        found = answers(prover.prove_transition(look))
        assert found["look", "nobody looks at a lamp that is off", "action"] == "FAILED"


def test_unknown_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_solver, "OPTIONS", {"incremental": "true"})
    reap = SPEC.transitions["reap"]
    mutant = dataclasses.replace(reap, guards=[g for g in reap.guards if g.name != "not in flight"])
    unproved = [o for o in Cvc5Prover(SPEC).prove_transition(mutant) if not o.proved]
    assert "no free block in flight" in {o.claim for o in unproved}
    assert {o.verdict for o in unproved} == {"UNKNOWN"}


def test_text_that_the_solver_rejects_is_an_error() -> None:
    script = Exporter(SPEC).initial()
    broken = Script(script.name, script.preamble + "(assert (no-such-function 1))\n", script.questions)
    with pytest.raises(RuntimeError, match="no-such-function"):
        Cvc5Prover(SPEC)._decide(broken)


@pytest.mark.parametrize("name", ["initial", "transition-release_to_limbo", "transition-prefill_last", "parts"])
def test_another_solver_reads_the_exported_text(name: str) -> None:
    """z3 decides the quantified text as well."""
    script = next(s for s in Exporter(SPEC).scripts() if s.name == name)
    context = z3.Context()
    printed = z3.Z3_eval_smtlib2_string(context.ref(), script.text()).splitlines()
    assert printed[0::2] == [f"{q.subject}: {q.claim}" for q in script.questions]
    assert printed[1::2] == [q.expected for q in script.questions]


def test_the_files_hold_every_obligation(tmp_path: Path) -> None:
    assert write_smtlib(tmp_path) == 0
    files = sorted(p.stem for p in tmp_path.iterdir())
    assert files == sorted(s.name for s in Exporter(SPEC).scripts())
    assert {f"transition-{name}" for name in SPEC.transitions} < set(files)
    asked = [
        line[7:-2]
        for path in tmp_path.iterdir()
        for line in path.read_text().splitlines()
        if line.startswith('(echo "')
    ]
    assert sorted(asked) == sorted(f"{subject}: {claim}" for subject, claim, _ in everything("z3"))


def test_the_same_specification_gives_the_same_bytes(tmp_path: Path) -> None:
    export(SPEC, tmp_path / "here")
    code = (
        "import sys, pathlib; from tokenspeed.spec.system import SPEC; "
        "from tokenspeed.spec.prove.smtlib import export; "
        "export(SPEC, pathlib.Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
    here = {p.name: p.read_bytes() for p in (tmp_path / "here").iterdir()}
    assert here == {p.name: p.read_bytes() for p in (tmp_path / "1").iterdir()}
    assert here == {p.name: p.read_bytes() for p in (tmp_path / "2").iterdir()}


@pytest.fixture(scope="module")
def exploration() -> Exploration:
    return survey(copy.copy(SPEC))  # keeps all transitions when `smaller` takes some away


@pytest.fixture
def smaller(exploration: Exploration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves time: only transitions of choices and progress claims, and small instances searched once."""
    names = {name for choice in SPEC.choices for name in choice.transitions}
    names |= {option.transition for claim in SPEC.progress.values() for option in claim.options}
    monkeypatch.setattr(SPEC, "transitions", {n: t for n, t in SPEC.transitions.items() if n in names})
    monkeypatch.setattr("tokenspeed.spec.commands.proofs.survey_anyway", lambda _: exploration)


@pytest.mark.usefixtures("smaller")
def test_a_broken_specification_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reap = SPEC.transitions["reap"]
    mutant = dataclasses.replace(reap, guards=[g for g in reap.guards if g.name != "not in flight"])
    monkeypatch.setitem(SPEC.transitions, "reap", mutant)
    assert run_verify(json_output=True, solver="cvc5") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["proved"] is False and report["solver"] == Cvc5Prover.solver_name
    failed = {p["name"] for p in report["properties"] if p["verdict"] == "FAILED"}
    assert "no free block in flight" in failed and "exclusive owner" not in failed


@pytest.mark.usefixtures("smaller")
def test_the_table_names_the_solver(capsys: pytest.CaptureFixture[str]) -> None:
    run_verify(solver="cvc5")  # of a part of the specification, whose stages ask for transitions that were taken away
    printed = " ".join(capsys.readouterr().out.split())
    assert f"decided by {Cvc5Prover.solver_name}" in printed


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvc5", None)
    monkeypatch.delitem(sys.modules, "tokenspeed.spec.prove.second_solver")
    result = CliRunner().invoke(main, ["verify", "--solver", "cvc5"])
    assert result.exit_code == 1
    assert "needs the Python module `cvc5`" in result.output and "pip install 'tokenspeed[cvc5]'" in result.output
    assert len(result.output.splitlines()) == 1


def test_options_of_the_proofs_go_with_the_proofs_only() -> None:
    result = CliRunner().invoke(main, ["verify", "--solver", "cvc5", "drop", "reap:not in flight"])
    assert result.exit_code == 2
    assert "--solver is an option of the proofs" in result.output
