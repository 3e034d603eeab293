"""The prover proves what holds, and finds what does not."""

from __future__ import annotations

import dataclasses

import pytest

from tokenspeed.spec.language.expressions import BOOL, INT, Expr
from tokenspeed.spec.language.spec import Spec, Transition
from tokenspeed.spec.prove.prover import Prover, failed
from tokenspeed.spec.system import SPEC


def test_every_obligation_of_the_scheduler_is_proved() -> None:
    prover = Prover(SPEC)
    obligations = prover.prove()
    obligations += [o for choice in SPEC.choices for o in prover.prove_choice(choice)]
    obligations += [prover.subset_holds(part, whole) for part, whole in SPEC.subsets]
    assert [(o.subject, o.claim, o.verdict) for o in failed(obligations)] == []
    assert len(obligations) > 1500


def test_no_transition_is_vacuous() -> None:
    prover = Prover(SPEC)
    assert [t.name for t in SPEC.transitions.values() if prover.vacuous(t).verdict != "possible"] == []


def test_a_transition_that_nothing_allows_is_reported() -> None:
    transition = SPEC.transitions["evict"]
    false = Expr("lit", False, type=BOOL)
    impossible = dataclasses.replace(
        transition, guards=[*transition.guards, type(transition.guards[0])("never", false)]
    )
    assert Prover(SPEC).vacuous(impossible).verdict == "VACUOUS"


@pytest.mark.parametrize(
    ("transition", "guard", "broken"),
    [
        ("release_owned", "not in flight", "no free block in flight"),
        ("reap", "not in flight", "no free block in flight"),
        ("evict", "not in flight", "no free block in flight"),
        ("publish", "written", "no write to a shared block"),
        ("recycle", "drained", "no stale row"),
        ("retract", "drained", "no stale row"),
        ("allocate", "block FREE", "no reuse in flight"),
        ("observe", "device idle", "device works on launched steps"),
        ("decode", "room", "enough blocks"),
        ("reap", "not being copied", "copies touch no free block"),
        ("drop_page", "not being copied", "a host page is dropped only when quiet"),
        ("land_row", "accepted what was drafted", "a landed row yields what was accepted"),
        ("receive_dropped", "engine idle", "engines work on copies under way"),
        ("close", "no blocks", "dead request holds nothing"),
        ("submit", "newest", "arrival numbers are unique"),
    ],
)
def test_without_the_guard_the_property_is_not_kept(transition: str, guard: str, broken: str) -> None:
    original = SPEC.transitions[transition]
    guards = [g for g in original.guards if g.name != guard]
    assert len(guards) == len(original.guards) - 1
    unproved = failed(Prover(SPEC).prove_transition(dataclasses.replace(original, guards=guards)))
    assert broken in {o.claim for o in unproved}
    assert all(o.verdict == "FAILED" for o in unproved), "z3 always answers"


@pytest.mark.parametrize("transition", SPEC.transitions.values(), ids=lambda t: t.name)
def test_without_an_effect_something_is_not_kept(transition: Transition) -> None:
    """Each counter update matters: leaving any of them out fails the delta rule."""
    prover = Prover(SPEC)
    for i, effect in enumerate(transition.effects):
        if effect.variable.name in SPEC.counts:
            mutant = dataclasses.replace(transition, effects=[e for j, e in enumerate(transition.effects) if j != i])
            unproved = {o.claim for o in failed(prover.prove_transition(mutant))}
            assert f"count {effect.variable.name}" in unproved


def counting_spec(weight: int, step: int | None = None) -> Spec:
    """Balls move into a bag; `total` is declared as their weight. `step`: by how much it grows instead of rightly."""
    spec = Spec("bag")
    ball = spec.sort("Ball", "b")
    inside = spec.variable("inside", ball, of=BOOL, init=False, doc="")
    total = spec.count(
        "total", over=ball, of=lambda b: inside(b), weight=lambda b: Expr("lit", weight, type=INT), doc=""
    )

    @spec.transition(b=ball, c=ball)
    def put(t: Transition, b: Expr, c: Expr) -> None:
        t.guard("different", b != c)
        t.join(inside[b])
        t.join(inside[c])
        t.guard("both outside", ~inside(b) & ~inside(c))

    if step is not None:
        put.effects[-1] = dataclasses.replace(put.effects[-1], value=total() + step)
    return spec


@pytest.mark.parametrize(("weight", "step", "right"), [(1, 2, True), (1, 1, False), (3, 6, True), (3, 3, False)])
def test_delta_rule_counts_distinct_parameters(weight: int, step: int, right: bool) -> None:
    spec = counting_spec(weight, step)
    unproved = failed(Prover(spec).prove())
    assert (unproved == []) == right


@pytest.mark.parametrize("weight", [1, 3])
def test_what_is_derived_of_a_counter_is_proved(weight: int) -> None:
    assert failed(Prover(counting_spec(weight)).prove()) == []


def test_a_wrong_hint_is_found_by_the_delta_rule() -> None:
    spec = counting_spec(1)
    inside = spec.variables["inside"]

    @spec.transition(b=spec.sorts["Ball"])
    def take(t: Transition, b: Expr) -> None:
        t.leave(inside[b])  # it may be outside

    assert [o.claim for o in failed(Prover(spec).prove())] == ["count total"]


def test_delta_rule_needs_the_parameters_to_be_distinct() -> None:
    spec = counting_spec(1)
    put = spec.transitions["put"]
    put.guards = [g for g in put.guards if g.name != "different"]
    assert [o.claim for o in failed(Prover(spec).prove())] == ["count total"]


def test_a_part_must_be_a_part() -> None:
    spec = Spec("parts")
    ball = spec.sort("Ball", "b")
    red = spec.variable("red", ball, of=BOOL, init=False, doc="")
    big = spec.variable("big", ball, of=BOOL, init=False, doc="")
    reds = spec.count("reds", over=ball, of=lambda b: red(b), doc="")
    spec.count("big_reds", over=ball, of=lambda b: red(b) & big(b), part_of=reds, doc="")
    spec.count("bigs", over=ball, of=lambda b: big(b), part_of=reds, doc="")
    prover = Prover(spec)
    assert prover.subset_holds("big_reds", "reds").proved
    assert not prover.subset_holds("bigs", "reds").proved
