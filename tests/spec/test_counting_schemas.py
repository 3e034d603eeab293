"""What the proofs take for granted about counters, tried on every set of up to five individuals.

A counter is a sum over a set. Solvers know nothing of sums; they are given the formulas of `counting.py`. Here the sums
are computed, and the formulas must agree with them: the rule accepts exactly the right changes, and what may be assumed
of a right counter is true.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest

from tokenspeed.spec.language.counting import (
    Claim,
    assumptions,
    at_most,
    counted,
    delta_rule,
    is_part,
    right_at_the_start,
)
from tokenspeed.spec.language.expressions import BOOL, INT, SpecError, lift
from tokenspeed.spec.language.spec import Parameter, Spec, Transition
from tokenspeed.spec.search.interpreter import Index, Interpreter, State, Values

SIZES = range(1, 6)
Ball = tuple[bool, int]
"""Whether a ball is in the bag, and its weight (which may be anything outside)."""


def value(ball: Ball) -> int:
    return ball[1] if ball[0] else 0


def bag() -> Spec:
    """`total` is the weight of the balls inside."""
    spec = Spec("bag")
    ball = spec.sort("Ball", "b")
    inside = spec.variable("inside", ball, of=BOOL, init=False, doc="")
    weight = spec.variable("weight", ball, of=INT, init=0, doc="")
    spec.count("total", over=ball, of=lambda b: inside(b), weight=lambda b: weight(b), doc="")
    return spec


def bag_state(interpreter: Interpreter, balls: Sequence[Ball], total: int) -> State:
    values: Values = {
        "inside": {(i,): ball[0] for i, ball in enumerate(balls)},
        "weight": {(i,): ball[1] for i, ball in enumerate(balls)},
        "total": {(): total},
    }
    return State(interpreter.initial, values)


def holds(
    interpreter: Interpreter,
    claim: Claim,
    size: int,
    state: State,
    following: State | None = None,
    own: dict[str, int] | None = None,
) -> bool:
    """The claim is true for all individuals."""
    population = dict.fromkeys(interpreter.spec.sorts, size)
    return all(
        interpreter.evaluate(claim.formula, {**(own or {}), **names}, state, following)
        for names in interpreter.bindings(claim.parameters, population)
    )


def transition(sort: str, parameters: int) -> Transition:
    return Transition("change", "scheduler", tuple(Parameter(f"p{i}", sort) for i in range(parameters)), "")


@pytest.mark.parametrize("size", SIZES)
def test_what_is_assumed_of_a_right_counter_is_true(size: int) -> None:
    spec = bag()
    interpreter = Interpreter(spec, {})
    refuted = set()
    for balls in itertools.product([(False, 9), (True, 0), (True, 1), (True, 3)], repeat=size):
        total = sum(map(value, balls))
        for claim in assumptions(spec):
            assert holds(interpreter, claim, size, bag_state(interpreter, balls, total)), (balls, claim.name)
            if not holds(interpreter, claim, size, bag_state(interpreter, balls, total - 1)):
                refuted.add(claim.name)
    names = {"total is not negative", "total covers one", "total covers two"}
    assert {c.name for c in assumptions(spec)} == names
    assert refuted == (names if size > 1 else names - {"total covers two"}), "each can refute a wrong counter"


def changes(size: int, before: Sequence[Ball], after: Sequence[Ball]) -> Iterator[tuple[tuple[Ball, ...], ...]]:
    """All pairs of bags before and after; individuals are anonymous, so their order does not matter."""
    for pairs in itertools.combinations_with_replacement(list(itertools.product(before, after)), size):
        old, new = zip(*pairs, strict=True)
        yield old, new


@pytest.mark.parametrize(
    ("parameters", "weights_before", "weights_after"),
    [(0, (1, 2), (-1, 0, 1, 2)), (1, (1, 2), (-1, 0, 1, 2)), (2, (1, 2), (0, 1, 2)), (3, (1,), (1,))],
)
@pytest.mark.parametrize("size", SIZES)
def test_the_delta_rule_accepts_exactly_the_right_changes(
    size: int, parameters: int, weights_before: tuple[int, ...], weights_after: tuple[int, ...]
) -> None:
    spec = bag()
    interpreter = Interpreter(spec, {})
    change = transition("Ball", parameters)
    rule = delta_rule(spec.counts["total"], change)
    before = [(False, 9), *[(True, w) for w in weights_before]]
    after = [(False, 9), *[(True, w) for w in weights_after]]
    accepted = 0
    for old, new in changes(size, before, after):
        first, last = sum(map(value, old)), sum(map(value, new))
        state = bag_state(interpreter, old, first)
        for chosen in itertools.product(range(size), repeat=parameters):
            own = {f"p{i}": x for i, x in enumerate(chosen)}
            kept = all(value(old[x]) == value(new[x]) for x in range(size) if x not in chosen)
            positive = all(value(ball) >= 0 for ball in new)
            for total in {last - 1, last, last + 1, first}:
                right = kept and positive and total == last
                following = bag_state(interpreter, new, total)
                assert holds(interpreter, rule, size, state, following, own) == right, (old, new, chosen, total)
                accepted += right
    assert accepted > 0


@pytest.mark.parametrize("parameters", [0, 1, 2])
def test_the_delta_rule_of_a_counter_over_its_own_sort(parameters: int) -> None:
    """`friends(p)` counts whom p knows: index and what is counted are of one sort, like the parameters."""
    spec = Spec("people")
    person = spec.sort("Person", "p")
    knows = spec.variable("knows", person, person, of=BOOL, init=False, doc="")
    spec.count("friends", person, over=person, of=lambda q, p: knows(p, q), doc="")
    interpreter = Interpreter(spec, {})
    rule = delta_rule(spec.counts["friends"], transition("Person", parameters))
    people = range(2)
    pairs: list[Index] = list(itertools.product(people, people))
    relations = [dict(zip(pairs, known, strict=True)) for known in itertools.product([False, True], repeat=4)]
    for old, new in itertools.product(relations, relations):
        state = State(
            interpreter.initial,
            {"knows": dict(old), "friends": {(p,): sum(old[p, q] for q in people) for p in people}},
        )
        for chosen in itertools.product(people, repeat=parameters):
            kept = all(old[p, q] == new[p, q] for p, q in pairs if q not in chosen)
            for wrong in itertools.product((-1, 0, 1), repeat=2):
                friends: dict[Index, int] = {(p,): sum(new[p, q] for q in people) + wrong[p] for p in people}
                following = State(interpreter.initial, {"knows": dict(new), "friends": friends})
                own = {f"p{i}": x for i, x in enumerate(chosen)}
                assert holds(interpreter, rule, 2, state, following, own) == (kept and wrong == (0, 0))


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_left_of_a_part_when_the_whole_is_0(size: int) -> None:
    """The side condition of `part_of` is enough, and without it the conclusion is wrong somewhere."""
    spec = Spec("parts")
    ball = spec.sort("Ball", "b")
    red = spec.variable("red", ball, of=BOOL, init=False, doc="")
    inside = spec.variable("inside", ball, of=BOOL, init=False, doc="")
    weight = spec.variable("weight", ball, of=INT, init=0, doc="")
    whole = spec.count("whole", over=ball, of=lambda b: inside(b), weight=lambda b: weight(b), doc="")
    spec.count("part", over=ball, of=lambda b: red(b), part_of=whole, doc="")
    interpreter = Interpreter(spec, {})
    side_condition = is_part(spec, "part", "whole")
    conclusion = next(c for c in assumptions(spec) if c.name == "part is part of whole")
    needed = False
    for balls in itertools.combinations_with_replacement(itertools.product([False, True], [False, True], [0, 1]), size):
        state = State(
            interpreter.initial,
            {
                "red": {(i,): b[0] for i, b in enumerate(balls)},
                "inside": {(i,): b[1] for i, b in enumerate(balls)},
                "weight": {(i,): b[2] for i, b in enumerate(balls)},
                "part": {(): sum(b[0] for b in balls)},
                "whole": {(): sum(b[2] for b in balls if b[1])},
            },
        )
        if not holds(interpreter, conclusion, size, state):
            needed = True
            assert not holds(interpreter, side_condition, size, state)
    assert needed


@pytest.mark.parametrize("size", SIZES)
def test_the_initial_value_is_the_sum(size: int) -> None:
    """A counter starts at 0 with nothing counted, or at the constant that is the total weight of its sort."""
    accepted = []
    for inside, weight, start in itertools.product([False, True], [-1, 0, 1, 2], [-1, 0, 1, 5, "SIZE"]):
        spec = Spec("start")
        ball = spec.sort("Ball", "b")
        constant = spec.constant("SIZE", 0, "balls")
        is_inside = spec.variable("inside", ball, of=BOOL, init=inside, doc="")
        weighs = spec.variable("weight", ball, of=INT, init=weight, doc="")
        total = spec.count(
            "total",
            over=ball,
            of=lambda b, f=is_inside: f(b),
            weight=lambda b, f=weighs, w=weight, fixed=start == "SIZE": lift(w) if fixed else f(b),
            init=constant if start == "SIZE" else start,
            doc="",
        )
        interpreter = Interpreter(spec, {"SIZE": size * weight})
        if holds(interpreter, right_at_the_start(spec.counts["total"]), size, interpreter.start()):
            accepted.append((inside, start))
            assert interpreter.initial[total.name] == sum(value((inside, weight)) for _ in range(size))
    assert set(accepted) == {(False, 0), (True, 0), (True, "SIZE")}


@pytest.mark.parametrize("size", SIZES)
def test_of_what_is_counted_one_has_the_largest_number(size: int) -> None:
    """If anything is counted, exactly the counted ones with the largest number will do (there is one); else anybody."""
    spec = bag()
    rank = spec.variable("rank", spec.sorts["Ball"], of=INT, init=0, doc="")
    chosen, other = (Parameter(name, "Ball") for name in ("chosen", "other"))
    count = spec.counts["total"]
    is_counted = counted(count, (), chosen.expr)
    is_largest = at_most(count, (), lambda b: rank(b), other.expr, chosen.expr)
    interpreter = Interpreter(spec, {})
    for balls in itertools.combinations_with_replacement([(False, 9), (True, 0), (True, 1), (True, 3)], size):
        for ranks in itertools.product([-1, 0, 2], repeat=size):
            state = bag_state(interpreter, balls, sum(map(value, balls)))
            state.values["rank"] = {(i,): x for i, x in enumerate(ranks)}
            found = [
                c
                for c in range(size)
                if interpreter.evaluate(is_counted, {"chosen": c}, state)
                and all(interpreter.evaluate(is_largest, {"chosen": c, "other": o}, state) for o in range(size))
            ]
            inside = [i for i, ball in enumerate(balls) if value(ball) > 0]
            largest = max((ranks[i] for i in inside), default=0)
            assert found == ([i for i in inside if ranks[i] == largest] or [*range(size)])


def test_a_constant_is_the_total_of_one_thing_only() -> None:
    """Two counters may not start at one constant with different weights: it cannot be both totals."""
    spec = Spec("start")
    ball = spec.sort("Ball", "b")
    size = spec.constant("SIZE", 0, "balls")
    inside = spec.variable("inside", ball, of=BOOL, init=True, doc="")
    spec.count("total", over=ball, of=lambda b: inside(b), init=size, doc="")
    spec.count("again", over=ball, of=lambda b: inside(b), init=size, doc="")
    with pytest.raises(SpecError, match="SIZE"):
        spec.count("heavy", over=ball, of=lambda b: inside(b), weight=lambda b: lift(2), init=size, doc="")


def test_weights_that_vary_have_no_constant_total() -> None:
    spec = Spec("start")
    ball = spec.sort("Ball", "b")
    size = spec.constant("SIZE", 0, "balls")
    inside = spec.variable("inside", ball, of=BOOL, init=True, doc="")
    weighs = spec.variable("weight", ball, of=INT, init=1, doc="")
    total = spec.count("total", over=ball, of=lambda b: inside(b), weight=lambda b: weighs(b), init=size, doc="")
    interpreter = Interpreter(spec, {"SIZE": 3})
    assert not holds(interpreter, right_at_the_start(spec.counts[total.name]), 3, interpreter.start())
