"""Translation validation: the generated C++ is what the specification says, and every damage to its text is noticed."""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace

import pytest

from tokenspeed.spec.conform.binary import generated_sources
from tokenspeed.spec.conform.bounds_proof import prove_bounds
from tokenspeed.spec.conform.cpp import semantics as cpp_semantics
from tokenspeed.spec.conform.cpp.mutants import MISSED, NOTICED, SAME, Damage, Judge, every_damage, judge_all
from tokenspeed.spec.conform.translation import read, validate, validate_transition
from tokenspeed.spec.language.expressions import variables_read
from tokenspeed.spec.language.spec import Spec
from tokenspeed.spec.machines import bounds
from tokenspeed.spec.system import SPEC

SOURCES = generated_sources()
DAMAGES = every_damage(SPEC, SOURCES)
FREE = "    globals_.free += 1;\n"
LATE = "step_[s].number = 0;\n    globals_.landed = step_[s].number;"
OPERATORS = sorted({d.operator for d in DAMAGES})


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(SPEC, SOURCES)


def findings_of(code: str, transition: str, checked: bool = False) -> list[str]:
    layout, unit = read(SPEC, replace(SOURCES, code=code), checked)
    return [f"{f} [{f.by}]" for f in validate_transition(layout, unit, SPEC.transitions[transition], checked)]


def body_of(transition: str) -> str:
    found = re.search(rf"Guard Machine::apply_{transition}\(.*?\n}}\n", SOURCES.code, re.DOTALL)
    assert found is not None
    return found[0]


def changed(transition: str, old: str, new: str) -> str:
    body = body_of(transition)
    assert old in body, f"{transition} has no {old!r}; choose another example"
    return SOURCES.code.replace(body, body.replace(old, new, 1))


def test_the_committed_code_is_what_the_specification_says() -> None:
    result = validate(SPEC, SOURCES)
    assert [str(f) for f in result.findings] == []
    assert result.transitions == 2 * len(SPEC.transitions)
    ghost = {v.name for v in SPEC.variables.values() if v.ghost}
    guards = [g for t in SPEC.transitions.values() for g in t.guards]
    assert result.proofs["guards"] == 2 * len(guards) - sum(bool(variables_read(g.condition) & ghost) for g in guards)
    assert result.proofs["effects"] >= 2 * sum(
        not e.variable.ghost for t in SPEC.transitions.values() for e in t.effects
    )
    assert result.proofs["operations that do not wrap"] > 100 and result.proofs["indices in range"] > 100


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_sample_of_each_kind_of_damage_is_noticed(judge: Judge, operator: str) -> None:
    """`make binary-mutants` judges all of them."""
    candidates = [d for d in DAMAGES if d.operator == operator and d.file == "code"]
    for damage in random.Random(operator).sample(candidates, min(4, len(candidates))):
        assert judge.judge(damage) in (*NOTICED, SAME), str(damage)


def test_a_sample_of_lines_left_out_of_the_header_is_noticed(judge: Judge) -> None:
    candidates = [d for d in DAMAGES if d.file == "header"]
    for damage in random.Random(1).sample(candidates, 6):
        assert judge.judge(damage) in NOTICED, str(damage)


@pytest.mark.skipif(not os.environ.get("TOKENSPEED_ALL_MUTANTS"), reason="minutes; make binary-mutants does the same")
def test_all_damages_are_noticed() -> None:
    assert [str(d) for d, verdict in judge_all(SOURCES) if verdict == MISSED] == []


def test_what_has_no_effect_is_not_noticed(judge: Judge) -> None:
    """The judge can say no: a comment changes nothing."""
    code = SOURCES.code.replace("// What each", "// What EACH")
    assert judge.judge(Damage("comment", "code", 2, "", "", code)) == MISSED


def test_an_equal_formula_is_proved_equal() -> None:
    same = changed("reap", "block_[b].stamp > globals_.landed", "!(globals_.landed >= block_[b].stamp)")
    assert findings_of(same, "reap") == []


@pytest.mark.parametrize(
    ("transition", "old", "new", "message"),
    [
        ("reap", "stamp > ", "stamp >= ", "guard 'not in flight' means something else [z3]"),
        ("reap", "BlockState::Limbo", "BlockState::Cached", "means something else [z3]"),
        ("reap", FREE, "", "free is not written [z3]"),
        ("reap", "globals_.free += 1", "globals_.free += 2", "free is not what the effects of reap give [z3]"),
        ("reap", "globals_.free += 1", "globals_.held += 1", "free is not written [z3]"),
        ("reap", "!has_block(b)", "has_block(b)", "refuses other ids than those out of range [z3]"),
        ("reap", "!has_block(b)", "b < 0", "refuses other ids than those out of range [z3]"),
        ("reap", "Guard::reap__not_in_flight", "Guard::evict__not_in_flight", "guard 3 must be reap__not_in_flight"),
        ("reap", "record(Transition::reap, b)", "record(Transition::evict, b)", "records something else"),
        ("reap", "    return Guard::none;", "    return Guard::bad_index;", "does not end with `return Guard::none;`"),
        ("reap", "free += 1", "free *= 1", "generated code has no such statement"),
        ("reap", "free += 1", "free += 1 * 1", "operator * is not used"),
        ("reap", "globals_.free += ", "global_.free += ", "no variable is kept in"),
        ("reap", "globals_.free += 1", "globals_.free = true", "is a bool and is stored as a std::int64_t"),
        ("reap", FREE, FREE + "    block_[b].position = 0;\n", "position is not what"),
        ("retire", "globals_.landed = step_[s].number;\n    step_[s].number = 0;", LATE, "landed is not what the"),
    ],
)  # fmt: skip
def test_findings_say_what_is_wrong(transition: str, old: str, new: str, message: str) -> None:
    found = findings_of(changed(transition, old, new), transition)
    assert any(message in f for f in found), found
    assert all(re.match(r"machine\.cpp:\d+: ", f) for f in found)


def test_a_guard_after_an_effect_is_refused() -> None:
    body = body_of("reap").split("\n")
    effect = next(i for i, line in enumerate(body) if " = BlockState::Free;" in line)
    body[effect - 1], body[effect] = body[effect], body[effect - 1]
    found = findings_of(SOURCES.code.replace(body_of("reap"), "\n".join(body)), "reap")
    assert "a refused transition would change the state" in found[0]


def test_lines_of_the_checked_build_alone_are_validated_too() -> None:
    code = changed("allocate", "    CHECKED_ONLY(ghost_allocate(r, b);)\n", "")
    assert findings_of(code, "allocate", checked=False) == []
    assert any("ghost_.held_room is not written" in f for f in findings_of(code, "allocate", checked=True))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    ghost_writes.commit();\n", "", "ghost effects are collected and not committed"),
        ("    GhostWrites ghost_writes;\n", "", "a ghost effect before ghost_writes"),
        (
            "    ghost_writes.commit();\n",
            "    ghost_writes.commit();\n    block_[b].fill = 0;\n",
            "no effect on ghosts",
        ),
        ("ghost_.table_entries.get({}) + 1", "ghost_.table_entries.get({}) + 2", "ghost_.table_entries is not what"),
        ("ghost_.holds, {r, b}, true", "ghost_.holds, {r, b}, false", "ghost_.holds is not what the effects of"),
    ],
)
def test_effects_on_ghosts_are_validated_where_they_stand(old: str, new: str, message: str) -> None:
    at = SOURCES.ghosts.index("Machine::ghost_allocate(")
    ghosts = SOURCES.ghosts[:at] + SOURCES.ghosts[at:].replace(old, new, 1)
    layout, unit = read(SPEC, replace(SOURCES, ghosts=ghosts), True)
    found = [str(f) for f in validate_transition(layout, unit, SPEC.transitions["allocate"], True)]
    assert any(message in f for f in found), found


def test_a_definition_that_means_something_else_is_reported() -> None:
    """Also one that no transition mentions."""
    header = SOURCES.header.replace("return request_[r].request_state == RequestState::Absent;", "return true;")
    assert header != SOURCES.header
    found = [str(f) for f in validate(SPEC, replace(SOURCES, header=header), [False]).findings]
    assert any("absent: means something else" in f for f in found), found


def test_a_function_that_nobody_knows_is_reported() -> None:
    declared = SOURCES.header.replace("  private:\n", "    void restore() { globals_.free = 0; }\n  private:\n", 1)
    found = [str(f) for f in validate(SPEC, replace(SOURCES, header=declared), [False]).findings]
    assert any("restore may change the state and is no transition" in f for f in found), found


def test_a_stale_header_is_reported() -> None:
    stale = SOURCES.header.replace(SPEC.digest(), "0" * 64)
    found = [str(f) for f in validate(SPEC, replace(SOURCES, header=stale), [False]).findings]
    assert found and f"kSpecHash is {'0' * 64}" in found[0]


# Integers.


def test_every_integer_stays_within_its_declared_bounds() -> None:
    kept = prove_bounds(SPEC)
    assert [k for k in kept if not k.proved] == []
    written = {
        e.variable.name for t in SPEC.transitions.values() for e in t.effects if e.variable.type in ("Int", "Tick")
    }
    assert {k.variable for k in kept} == {v for v in written if not SPEC.variables[v].ghost}


def test_without_bounds_operations_may_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The obligations are not empty: numbers up to the largest that 64 bits hold do wrap."""
    monkeypatch.setattr(cpp_semantics, "bounds_of", lambda spec, variable: (0, 2**63 - 1))
    layout, code = read(SPEC, SOURCES, False)
    found = (f for t in SPEC.transitions.values() for f in validate_transition(layout, code, t, False))
    assert any("does not wrap" in f.what and f.by == "z3" for f in found)


def test_bounds_that_are_too_narrow_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(spec: Spec, variable: object) -> tuple[int, int]:
        return 0, 3

    monkeypatch.setattr("tokenspeed.spec.conform.bounds_proof.bounds_of", narrow)
    assert any(not k.proved and k.kind == "bounded" for k in prove_bounds(SPEC))


def test_the_scheduler_refuses_what_is_beyond_the_bounds() -> None:
    """`Scheduler.submit` keeps prompts and outputs below the limit that the proofs assume of drivers."""
    import numpy as np

    from tokenspeed.scheduler import Scheduler, SchedulerConfig

    scheduler = Scheduler(SchedulerConfig(num_blocks=4))
    none = np.zeros(0, dtype=np.uint64)
    for tokens, output in ((2**30 + 1, 1), (1, 2**30 + 1), (2**62, 2**62)):
        with pytest.raises(ValueError, match="2\\^30"):
            scheduler.submit_hashed(1, tokens, none, output)
    assert bounds.TOKENS.most >= 2 * 2**30
