"""Attempts to have something false proved. Each must be refused; docs/false-claims.md lists them for readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenspeed.spec.language.declarations import Transition
from tokenspeed.spec.language.expressions import BOOL, INT, Expr, SpecError, after, lift, taken
from tokenspeed.spec.language.labels import check_complete
from tokenspeed.spec.language.progress import Progress, progress
from tokenspeed.spec.language.ranking import Clause, Stage, contract, make_stage
from tokenspeed.spec.language.spec import ANY, Number, Spec
from tokenspeed.spec.prove.prover import Obligation, Prover
from tokenspeed.spec.prove.second_solver import Cvc5Prover
from tokenspeed.spec.search.variants import variant
from tokenspeed.spec.system import SPEC

ROOT = Path(__file__).resolve().parents[2]
V = SPEC.variables


def at_all(*names: str) -> list[Expr]:
    """Parameters of the scheduler's sorts, by their letters."""
    sorts = {s.letter: s.name for s in SPEC.sorts.values()}
    return [Expr("param", name, type=sorts[name[0]]) for name in names]


def unproved(obligations: Sequence[Obligation]) -> set[str]:
    return {o.claim for o in obligations if o.verdict not in ("proved", "possible")}


def named(name: str, formula: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is called like what it declares."""
    formula.__name__ = name.replace(" ", "_")
    return formula


# The contract: clauses that forbid what has to happen.


@contextmanager
def with_clause(formula: Expr, stage: str | None = None) -> Iterator[None]:
    parameters = SPEC.stages[stage].parameters if stage else ()
    clause = Clause("the attempt", "", parameters, formula, stage)
    SPEC.clauses[clause.name] = clause
    if stage:
        SPEC.stages[stage].clauses.append(clause)
    try:
        yield
    finally:
        del SPEC.clauses[clause.name]
        if stage:
            SPEC.stages[stage].clauses.remove(clause)


def clause_is_refused(formula: Expr, transition: str, stage: str | None = None) -> set[str]:
    with with_clause(formula, stage):
        return unproved(Prover(SPEC).prove_stages(SPEC.transitions[transition]))


(r,) = at_all("r")
CONTRACT: dict[str, tuple[Callable[[], set[str]], str]] = {
    "a clause: nothing is ever launched": (
        lambda: clause_is_refused(~taken("launch"), "launch"),
        "it is in a step, the oldest step: permitted by the attempt",
    ),
    "a clause that is false": (
        lambda: clause_is_refused(lift(False), "admit"),
        "it waits: permitted by the attempt",
    ),
    "a clause: no client ever submits": (
        lambda: clause_is_refused(~taken("submit"), "submit"),
        "it waits: free of the attempt",
    ),
    "a clause: no client ever aborts": (
        lambda: clause_is_refused(~taken("abort"), "abort"),
        "the oldest request: free of the attempt",
    ),
    "a clause: the device never ends a step": (
        lambda: clause_is_refused(~taken("device_done"), "device_done"),
        "it is in a step, the oldest step: permitted by the attempt",
    ),
    "a clause: no copy ever fails": (
        lambda: clause_is_refused(~taken("copy_fails"), "copy_fails"),
        "it waits: free of the attempt",
    ),
    "a clause: no step ever lands": (
        lambda: clause_is_refused(after(V["landed"]()) <= V["landed"](), "retire"),
        "it is in a step, the oldest step: permitted by the attempt",
    ),
    "a clause about the state before only": (
        lambda: clause_is_refused(V["opened"]() == V["landed"](), "device_done"),
        "it is in a step, the oldest step: permitted by the attempt",
    ),
    "a clause of a stage that forbids its only help": (
        lambda: clause_is_refused(~taken("finish"), "finish", "it has all its output"),
        "it has all its output: permitted by the attempt",
    ),
    "a clause of a stage: nobody gives blocks back": (
        lambda: clause_is_refused(
            after(V["table_entries"]()) >= V["table_entries"](), "release_shared", "it needs memory"
        ),
        "somebody leaves: permitted by the attempt",
    ),
}


# Declarations that are refused when they are read.


def lamps() -> Spec:
    """One sort, a number and a relation of each lamp."""
    spec = Spec("lamps")
    lamp = spec.sort("Lamp", "l")
    spec.variable("lit", lamp, of=BOOL, init=False, doc="")
    spec.variable("watts", lamp, of=INT, init=0, doc="")

    @spec.transition(x=lamp)
    def light(t: Transition, x: Expr) -> None:
        t.guard("dark", ~spec.variables["lit"](x))
        t.set(spec.variables["lit"][x], True)

    return spec


def declared(body: Callable[[Spec, Any], object]) -> Callable[[], set[str]]:
    """Declare something about lamps; what it returns, if it is no Spec, is ignored."""

    def attempt() -> set[str]:
        spec = lamps()
        body(spec, spec.sorts["Lamp"])
        check_complete(spec)
        return set()

    return attempt


def a_transition(guard: Expr | None = None, effect: Any = True, name: str = "other", **more: Any) -> Any:
    def declare(spec: Spec, lamp: Any) -> None:
        def body(t: Transition, x: Expr, *_: Expr) -> None:
            t.guard("a guard", lift(True) if guard is None else guard)
            t.set(spec.variables["lit"][x], effect)

        body.__name__ = name
        spec.transition(x=lamp, **more)(body)

    return declare


def a_stage(body: Callable[[Stage, Expr], None]) -> Any:
    return lambda spec, lamp: make_stage(spec, "a stage", "", body, "L1", x=lamp)


def a_progress(body: Callable[[Progress, Expr], None]) -> Any:
    return lambda spec, lamp: progress(spec, "L1", x=lamp)(body)


def write_twice(t: Transition, place: Any) -> None:
    t.set(place, True)
    t.set(place, False)


def twice_a_clause(spec: Spec, lamp: Any) -> None:
    def clause() -> Expr:
        return taken("light") >> lift(True)

    contract(spec)(clause)
    contract(spec)(clause)


DECLARED: dict[str, tuple[Any, str]] = {
    "a safety that asks which transition was taken": (
        lambda s, lamp: s.safety("P1")(lambda: ~taken("light")),
        "relate two states",
    ),
    "a lemma about the state after": (
        lambda s, lamp: s.lemma(x=lamp)(lambda x: after(s.variables["lit"](x))),
        "relate two states",
    ),
    "a guard about the state after": (a_transition(after(lift(True))), "relate two states"),
    "an effect that asks which transition is taken": (a_transition(effect=taken("light")), "relate two states"),
    "a counter of what the last transition was": (
        lambda s, lamp: s.count("n", over=lamp, of=lambda x: taken("light"), doc=""),
        "relate two states",
    ),
    "a choice about the state after": (
        lambda s, lamp: s.choice("L1", "light", x=lamp)(named("a choice", lambda x: after(s.variables["lit"](x)))),
        "relate two states",
    ),
    "a claim of progress about the state after": (
        a_progress(lambda p, x: p.when(after(p.spec.variables["lit"](x)))),
        "relate two states",
    ),
    "a rank in the state after": (
        a_stage(lambda s, x: s.rank(after(s.spec.variables["watts"](x)))),
        "relate two states",
    ),
    "the state after the state after": (
        lambda s, lamp: s.action("P1", x=lamp)(lambda x: after(after(s.variables["lit"](x)))),
        "relate two states",
    ),
    "two transitions of one name": (a_transition(name="light"), "this name is taken"),
    "two variables of one name": (
        lambda s, lamp: s.variable("lit", lamp, of=INT, init=0, doc=""),
        "this name is taken",
    ),
    "a constant that is called like a variable": (lambda s, lamp: s.constant("watts", 1, ""), "this name is taken"),
    "a sort that is called like a type": (lambda s, lamp: s.sort("Bool", "b"), "this name is taken"),
    "two sorts with one letter": (lambda s, lamp: s.sort("Ladder", "l"), "this name is taken"),
    "two clauses of one name": (twice_a_clause, "this name is taken"),
    "a name that is a formula": (
        lambda s, lamp: s.variable("lit.after", lamp, of=BOOL, init=False, doc=""),
        "letters, digits and _",
    ),
    "a parameter that is called like a counted individual": (a_transition(each_l=Number(0, 1)), "the language's own"),
    "an action about a transition that does not exist": (
        lambda s, lamp: s.action("P1", x=lamp)(lambda x: taken("lihgt") >> lift(False)),
        "there is no transition 'lihgt'",
    ),
    "progress by a transition that does not exist": (
        a_progress(lambda p, x: p.then("lihgt", x)),
        "there is no transition 'lihgt'",
    ),
    "progress by a transition with other parameters": (
        a_progress(lambda p, x: p.then("light", 1)),
        "light has the parameters Lamp, not Int",
    ),
    "a choice of a transition over somebody else": (
        lambda s, lamp: s.choice("L1", "light", y=lamp)(named("a choice", lambda y: lift(True))),
        "light has the parameters Lamp",
    ),
    "a stage with a fact about everybody of a sort that it has nobody of": (
        lambda s, lamp: make_stage(s, "a stage", "", lambda x: x.for_all(lamp, lambda y: lift(False)), "L1"),
        "the stage is about none",
    ),
    "one place written twice": (
        lambda s, lamp: s.transition(x=lamp)(named("twice", lambda t, x: write_twice(t, s.variables["lit"][x]))),
        "writes the same place twice",
    ),
    "a formula of Python's and": (
        lambda s, lamp: s.safety("P1", x=lamp)(lambda x: s.variables["lit"](x) and lift(True)),
        "has no truth value",
    ),
}


# Specifications that are wrong, and claims that do not follow.


def without(*labels: str) -> Callable[[], set[str]]:
    """The scheduler's specification without guards or effects."""

    def attempt() -> set[str]:
        with variant(SPEC, labels):
            return unproved(Prover(SPEC).prove_transition(SPEC.transitions[labels[0].partition(":")[0]]))

    return attempt


def with_transition(body: Callable[[Transition], None], **parameters: str) -> Callable[[], set[str]]:
    """The scheduler's specification with one transition more."""

    def attempt() -> set[str]:
        @SPEC.transition(**{p: SPEC.sorts[sort] for p, sort in parameters.items()})
        def the_attempt(t: Transition, *_: Expr) -> None:
            body(t)

        try:
            return unproved(Prover(SPEC).prove_transition(the_attempt))
        finally:
            del SPEC.transitions["the_attempt"]

    return attempt


def claimed(solver: type[Prover] | type[Cvc5Prover], body: Callable[[Spec], None]) -> Callable[[], set[str]]:
    """All that is claimed of lamps, with this."""

    def attempt() -> set[str]:
        spec = lamps()
        body(spec)
        prover = solver(spec)
        found = [*prover.prove_initial(), *prover.prove_parts(), *prover.prove_stages()]
        for t in spec.transitions.values():
            found += [*prover.prove_transition(t), prover.vacuous(t), *prover.prove_stages(t)]
        found += [o for choice in spec.choices for o in prover.prove_choice(choice)]
        return unproved([*found, *[prover.prove_progress(claim) for claim in spec.progress.values()]])

    return attempt


def named_alike(spec: Spec) -> None:
    """The parameter `wattage` is called like a variable without index: is it that variable?"""
    lamp, watts = spec.sorts["Lamp"], spec.variables["watts"]
    wattage = spec.variable("wattage", of=INT, init=0, doc="")

    @spec.transition(x=lamp, wattage=Number(1, None))
    def screw_in(t: Transition, x: Expr, n: Expr) -> None:
        t.guard("changes", watts(x) < n)
        t.set(watts[x], n)

    spec.safety("P1", x=lamp)(named("at most the wattage", lambda x: watts(x) <= wattage()))


def some_lamp(spec: Spec) -> None:
    size = spec.constant("LAMPS", 0, "")
    spec.count("dark", over=spec.sorts["Lamp"], of=lambda x: ~spec.variables["lit"](x), init=size, doc="")
    spec.safety("P1")(named("there is a lamp", lambda: size >= 1))


def any_lamp(spec: Spec) -> None:
    def some_lamp_can_be_lit(p: Progress) -> None:
        x = p.any(spec.sorts["Lamp"])
        p.then("light", x)
        p.or_holds(spec.variables["lit"](x))

    progress(spec, "L1")(some_lamp_can_be_lit)


def needs_another_sort(spec: Spec) -> None:
    pole = spec.sort("Pole", "p")
    poles = spec.constant("POLES", 0, "")
    planted = spec.variable("planted", pole, of=BOOL, init=False, doc="")
    spec.count("free_poles", over=pole, of=lambda p: ~planted(p), init=poles, doc="")

    @spec.transition(x=spec.sorts["Lamp"])
    def hang(t: Transition, x: Expr) -> None:
        t.guard("has poles", poles >= 1)
        t.set(spec.variables["watts"][x], spec.variables["watts"](x) + 1)


def not_at_the_start(spec: Spec) -> None:
    lit = spec.variables["lit"]
    spec.lemma(x=spec.sorts["Lamp"])(named("all are lit", lambda x: lit(x)))


def three(formula: Callable[[Expr, Expr, Expr], Expr]) -> Callable[[Spec], None]:
    def body(spec: Spec) -> None:
        lamp = spec.sorts["Lamp"]
        spec.safety("P1", x=lamp, y=lamp, z=lamp)(named("of three", formula))

    return body


def two_lit(spec: Spec) -> Callable[[Expr, Expr, Expr], Expr]:
    lit = spec.variables["lit"]
    return lambda x, y, z: ~(lit(x) & lit(y) & lit(z)) | (x == y) | (y == z) | (x == z)


def at_most_two(spec: Spec) -> None:
    three(two_lit(spec))(spec)


def not_a_part(spec: Spec) -> None:
    lit, watts, lamp = spec.variables["lit"], spec.variables["watts"], spec.sorts["Lamp"]
    strong = spec.count("strong", over=lamp, of=lambda x: lit(x) & (watts(x) >= 9), doc="")
    spec.count("lit_lamps", over=lamp, of=lambda x: lit(x), part_of=strong, doc="")


def overlapping(spec: Spec) -> None:
    lit, lamp = spec.variables["lit"], spec.sorts["Lamp"]
    counted = spec.count("lit_lamps", over=lamp, of=lambda x: lit(x), doc="")
    spec.tiling(counted, lambda x: spec.variables["watts"](x), lambda: lift(0), lambda: lift(True))


def both_at_once(spec: Spec) -> None:
    a_transition(name="also")(spec, spec.sorts["Lamp"])
    spec.choice("L1", "light", "also", x=spec.sorts["Lamp"])(named("one of two", lambda x: ~spec.variables["lit"](x)))


def endless(rank: int, ends: bool) -> Callable[[Spec], None]:
    def body(spec: Spec) -> None:
        def stage(s: Stage, x: Expr) -> None:
            s.when(~spec.variables["lit"](x))
            s.rank(lift(rank))
            if ends:
                s.ends_when(after(spec.variables["lit"](x)))

        make_stage(spec, "it is dark", "", stage, "L1", x=spec.sorts["Lamp"])

    return body


def never_helped(spec: Spec) -> None:
    def stage(s: Stage, x: Expr) -> None:
        s.when(spec.variables["lit"](x))
        s.ends_when(~after(spec.variables["lit"](x)))
        s.helpful("light", x)

    make_stage(spec, "it is lit", "", stage, "L1", x=spec.sorts["Lamp"])


def idle(t: Transition) -> None:
    """A transition that changes nothing."""
    (b,) = at_all("b")
    t.set(V["fill"][b], V["fill"](b))


def empty_claim() -> Callable[[], set[str]]:
    """A free block that seven requests hold, and a page of 12345 tokens."""

    def attempt() -> set[str]:
        def says_nothing(b: Expr) -> Expr:
            held = (V["block_state"](b) == SPEC.enums["BlockState"].FREE) & (V["refs"](b) >= 7)
            return held >> (SPEC.constants["PAGE"][0] == 12345)

        claim = SPEC.safety("P1", b=SPEC.sorts["Block"])(says_nothing)
        try:
            return unproved(Prover(SPEC).vacuous_antecedents(claim))
        finally:
            del SPEC.properties[claim.name]

    return attempt


WRONG: dict[str, tuple[Callable[[], set[str]], str]] = {
    "a parameter that is called like a variable": (claimed(Prover, named_alike), "at most the wattage"),
    "the same, asked of cvc5": (claimed(Cvc5Prover, named_alike), "at most the wattage"),
    "there is a host page, since sorts are not empty": (claimed(Prover, some_lamp), "there is a lamp"),
    "the same of cvc5, whose sorts are not empty either": (claimed(Cvc5Prover, some_lamp), "there is a lamp"),
    "somebody can act, though there may be nobody": (claimed(Prover, any_lamp), "one is possible"),
    "nobody, asked of cvc5": (claimed(Cvc5Prover, any_lamp), "one is possible"),
    "a transition that only works with somebody it does not speak of": (
        claimed(Prover, needs_another_sort),
        "can be taken",
    ),
    "a claim about what can never be": (
        empty_claim(),
        "can matter: (block_state(b) = FREE) & (7 <= refs(b))",
    ),
    "a lemma that is kept and does not hold at the start": (claimed(Prover, not_at_the_start), "all are lit"),
    "a claim about three individuals of one sort": (claimed(Prover, at_most_two), "of three"),
    "the same three, asked of cvc5": (claimed(Cvc5Prover, at_most_two), "of three"),
    "a part that is no part": (claimed(Prover, not_a_part), "part of strong"),
    "intervals that overlap": (claimed(Prover, overlapping), "lit_lamps tiles without overlap"),
    "exactly one of two that are possible together": (claimed(Prover, both_at_once), "light or also, not both"),
    "a stage without help": (claimed(Prover, endless(0, ends=True)), "it is dark: served"),
    "a rank below zero": (claimed(Prover, endless(-1, ends=True)), "it is dark: bounded"),
    "help that is never possible": (claimed(Prover, never_helped), "it is lit: served"),
    "a block freed under a step in flight": (without("release_owned:not in flight"), "no free block in flight"),
    "a block reaped too early": (without("reap:not in flight"), "no free block in flight"),
    "a failed copy that counts as one that arrived": (
        without("fetch_done:arrived"),
        "a block holds what its name says",
    ),
    "a failed store that counts as one": (without("spill_done:arrived"), "a host page holds what its name says"),
    "a token planned before the grammar has seen the last": (
        without("decode:last token seen"),
        "a grammar sees each token first",
    ),
    "a request closed with its blocks": (without("close:no blocks"), "dead request holds nothing"),
    "a record used again under a step": (without("recycle:drained"), "no stale row"),
    "steps observed out of order": (without("observe:oldest in flight"), "the done step is the oldest"),
    "a counter that is not counted": (without("allocate:effect refs"), "count refs"),
    "a transition that changes nothing": (with_transition(idle, b="Block"), "no idle transition"),
    "new weights, and the cache stays": (
        with_transition(lambda t: t.set(V["content"][ANY], lambda b: lift(0))),
        "a block holds what its name says",
    ),
    "the scheduler decides that the device is done": (
        with_transition(lambda t: t.set(V["executing"][at_all("s")[0]], False), s="Step"),
        "only the device ends a step",
    ),
    "a block that changes its name": (
        with_transition(lambda t: t.set(V["key"][at_all("b")[0]], 7), b="Block"),
        "a block keeps its place",
    ),
    "a result for a request that never ran": (
        with_transition(lambda t: t.add(V["known"][at_all("r")[0]], 1), r="Request"),
        "output comes from a done step",
    ),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_clause_that_forbids_what_must_happen_is_refused(name: str) -> None:
    attempt, claim = CONTRACT[name]
    assert claim in attempt()


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_without_meaning_is_refused(name: str) -> None:
    body, message = DECLARED[name]
    with pytest.raises(SpecError, match=message):
        declared(body)()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_false_is_not_proved(name: str) -> None:
    attempt, claim = WRONG[name]
    assert claim in attempt()


def test_what_stays_when_the_attempts_are_undone() -> None:
    """The lamps alone, and the scheduler's names, are in order: it is the attempts that are refused."""
    assert claimed(Prover, lambda spec: None)() == claimed(Cvc5Prover, lambda spec: None)() == set()
    check_complete(SPEC)


def test_a_part_is_in_the_digest() -> None:
    digest = SPEC.digest()
    part = SPEC.subsets.pop()
    try:
        assert SPEC.digest() != digest
    finally:
        SPEC.subsets.append(part)


def test_the_page_lists_every_attempt() -> None:
    names = [*CONTRACT, *DECLARED, *WRONG]
    listed = re.findall(r"^\| (.+?) \|", (ROOT / "docs/false-claims.md").read_text(), re.M)
    assert len(names) == len(set(names)) >= 40
    assert sorted(names) == sorted(set(listed) - {"attempt", "---"})


RENAMED = ("lit", "watts", "light", "Lamp", "l", "x", "x0", "l0", "LAMPS", "state lit", "inhabited", "t")


@pytest.mark.parametrize("shift", range(len(RENAMED)))
@pytest.mark.parametrize("solver", [Prover, Cvc5Prover])
def test_names_that_collide_change_no_verdict(solver: type[Prover] | type[Cvc5Prover], shift: int) -> None:
    """The same specification with all its names turned around: variables like parameters, sorts like individuals."""
    pool = [n for n in RENAMED[shift:] + RENAMED[:shift] if n.replace(" ", "_").isidentifier() and " " not in n]
    sort, letter, one, two, three_, number = pool[:6]
    spec = Spec("renamed")
    kind = spec.sort(sort, letter)
    on = spec.variable(one, kind, of=BOOL, init=False, doc="")
    total = spec.count(two, over=kind, of=lambda x: on(x), doc="")
    largest = spec.variable(three_, of=INT, init=0, doc="")

    def body(t: Transition, x: Expr, n: Expr) -> None:
        t.guard("off", ~on(x))
        t.set(on[x], True)
        t.set(largest.place, n)

    body.__name__ = number
    parameters = {one: kind, three_: Number(1, None)}
    spec.transition(**parameters)(body)
    spec.safety("P1")(named("total is not negative", lambda: total() >= 0))
    spec.safety("P1")(named("largest is small", lambda: largest() <= 5))
    spec.safety("P1", **{letter: kind})(named("on is counted", lambda x: on(x) >> (total() >= 1)))
    prover = solver(spec)
    found = [*prover.prove_initial(), *prover.prove_transition(spec.transitions[number])]
    assert unproved(found) == {"largest is small"}
    assert prover.vacuous(spec.transitions[number]).verdict == "possible"
