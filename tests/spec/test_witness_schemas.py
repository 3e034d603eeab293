"""The individuals that progress claims take from counters exist: tried on all sets of up to five individuals."""

from __future__ import annotations

import itertools

import pytest

from tokenspeed.spec.language.counting import Claim, counted, counted_more, covered, tiling_premises
from tokenspeed.spec.language.expressions import BOOL, INT, Expr, SpecError, lift
from tokenspeed.spec.language.spec import Parameter, Spec
from tokenspeed.spec.search.interpreter import Interpreter, State

SIZES = range(1, 6)


def bags() -> Spec:
    """Balls with weights in one bag, in the other, or in both; a shelf on which they lie."""
    spec = Spec("bags")
    ball, shelf = spec.sort("Ball", "b"), spec.sort("Shelf", "s")
    weight = spec.variable("weight", ball, of=INT, init=0, doc="")
    place = spec.variable("place", ball, of=INT, init=0, doc="")
    for name in ("left", "right"):
        inside = spec.variable(f"in_{name}", ball, of=BOOL, init=False, doc="")
        spec.count(name, over=ball, of=lambda b, f=inside: f(b), weight=lambda b: weight(b), doc="")
    lies = spec.variable("lies", ball, shelf, of=BOOL, init=False, doc="")
    width = spec.count("width", shelf, over=ball, of=lambda b, s: lies(b, s), weight=lambda b, s: weight(b), doc="")
    start = spec.variable("start", shelf, of=INT, init=0, doc="")
    spec.tiling(width, position=lambda b: place(b), start=lambda s: start(s), when=lambda s: lift(True))
    return spec


SPEC = bags()
INTERPRETER = Interpreter(SPEC, {})
X = Parameter("x", "Ball")


def true_for_somebody(formula: Expr, size: int, state: State) -> bool:
    return any(INTERPRETER.evaluate(formula, {"x": x, "s": 0}, state) for x in range(size))


@pytest.mark.parametrize("size", SIZES)
def test_whoever_makes_two_sums_differ_exists(size: int) -> None:
    left, right = SPEC.counts["left"], SPEC.counts["right"]
    one, more = counted(left, (), X.expr), counted_more(left, (), right, (), X.expr)
    positive = 0
    for weights in itertools.product(range(3), repeat=size) if size < 5 else itertools.product((1, 2), repeat=size):
        for where in (
            itertools.product(range(4), repeat=size) if size < 5 else itertools.product((1, 2, 3), repeat=size)
        ):
            state = INTERPRETER.start()
            for b, (w, x) in enumerate(zip(weights, where, strict=True)):
                state.set("weight", (b,), w)
                state.set("in_left", (b,), bool(x & 1))
                state.set("in_right", (b,), bool(x & 2))
            sums = [sum(w for w, x in zip(weights, where, strict=True) if x & bit) for bit in (1, 2)]
            state.set("left", (), sums[0])
            state.set("right", (), sums[1])
            positive += sums[0] > sums[1]
            assert true_for_somebody(one, size, state)
            assert true_for_somebody(more, size, state)
    assert positive


@pytest.mark.parametrize("size", SIZES)
def test_disjoint_intervals_as_long_as_their_range_leave_no_hole(size: int) -> None:
    tiling = SPEC.tilings["width"]
    at = Parameter("at", INT)
    witness = covered(SPEC, tiling, (Parameter("s", "Shelf").expr,), at.expr, X.expr)
    premises = tiling_premises(SPEC, tiling)
    tiled = holes = 0
    for places in itertools.product(range(size + 1), repeat=size):
        for weight in (1, 2) if size < 5 else (1,):
            state = INTERPRETER.start()
            for b, place in enumerate(places):
                state.set("weight", (b,), weight)
                state.set("place", (b,), place * weight)
                state.set("lies", (b, 0), True)
            state.set("width", (0,), size * weight)
            covers = all(
                any(INTERPRETER.evaluate(witness, {"x": x, "s": 0, "at": p}, state) for x in range(size))
                for p in range(size * weight)
            )
            if all(_holds(claim, size, state) for claim in premises):
                tiled += 1
                assert covers
            else:
                holes += not covers
    assert tiled
    assert size == 1 or holes, "without the premises it is not true"


def _holds(claim: Claim, size: int, state: State) -> bool:
    choices = [range(1 if p.type == "Shelf" else size) for p in claim.parameters]
    return all(
        INTERPRETER.evaluate(claim.formula, {p.name: i for p, i in zip(claim.parameters, xs, strict=True)}, state)
        for xs in itertools.product(*choices)
    )


def test_sums_of_different_weights_are_not_compared() -> None:
    spec = Spec("weights")
    ball = spec.sort("Ball", "b")
    inside = spec.variable("inside", ball, of=BOOL, init=False, doc="")
    spec.count("light", over=ball, of=lambda b: inside(b), doc="")
    spec.count("heavy", over=ball, of=lambda b: inside(b), weight=lambda b: lift(2), doc="")
    with pytest.raises(SpecError, match="heavy and light"):
        counted_more(spec.counts["heavy"], (), spec.counts["light"], (), Parameter("x", "Ball").expr)
