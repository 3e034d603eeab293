"""What is derived of counters is the change of what they count: random transitions and states, recounted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.spec.language.expressions import BOOL, INT, Expr, SpecError, if_else, lift, to_text
from tokenspeed.spec.language.spec import Count, Spec, Transition, Variable
from tokenspeed.spec.search.interpreter import Interpreter, State
from tokenspeed.spec.system import SPEC

SHELVES, BALLS = 2, 3


@dataclass
class Room:
    """Balls lie on shelves or not, are of a colour and have weights; counters of every kind."""

    spec: Spec
    lies: Variable
    weight: Variable
    colour: Variable


def room() -> Room:
    spec = Spec("room")
    ball, shelf = spec.sort("Ball", "b"), spec.sort("Shelf", "s")
    colours = spec.enum("Colour", RED="", GREEN="", BLUE="")
    lies = spec.variable("lies", ball, shelf, of=BOOL, init=False, doc="")
    weight = spec.variable("weight", ball, of=INT, init=0, doc="")
    colour = spec.variable("colour", ball, of=colours, init=colours.RED, doc="")
    spec.count("balls", shelf, over=ball, of=lambda b, s: lies(b, s), doc="")
    spec.count("load", shelf, over=ball, of=lambda b, s: lies(b, s), weight=lambda b, s: weight(b), doc="")
    spec.count("shelves", ball, over=shelf, of=lambda s, b: lies(b, s), doc="")
    spec.count("not_red", over=ball, of=lambda b: colour(b) != colours.RED, doc="")
    spec.count("bright", over=ball, of=lambda b: colour(b).isin(colours.GREEN, colours.BLUE), doc="")
    spec.count(
        "green_load",
        shelf,
        over=ball,
        of=lambda b, s: lies(b, s) & (colour(b) == colours.GREEN),
        weight=lambda b, s: weight(b) + 1,
        doc="",
    )
    spec.count("lying", over=ball, of=lambda b: lift(True), weight=lambda b: spec.variables["shelves"](b), doc="")
    return Room(spec, lies, weight, colour)


Act = Callable[[Transition, Room, Expr, Expr, Expr], None]
ON_THE_SHELF: dict[str, Act] = {
    "join": lambda t, k, b, c, s: t.join(k.lies[b, s]),
    "leave": lambda t, k, b, c, s: t.leave(k.lies[b, s]),
    "put, wherever it was": lambda t, k, b, c, s: t.set(k.lies[b, s], True),
    "put if another lies there": lambda t, k, b, c, s: t.set(k.lies[b, s], k.lies(c, s)),
    "stays": lambda t, k, b, c, s: t.guard("lies", k.lies(b, s)),
    "nothing": lambda t, k, b, c, s: None,
}
WEIGHT: dict[str, Act] = {
    "grows": lambda t, k, b, c, s: t.add(k.weight[b], 2),
    "shrinks": lambda t, k, b, c, s: t.set(k.weight[b], k.weight(b) - k.weight(c)),
    "is set": lambda t, k, b, c, s: t.set(k.weight[b], 5),
    "was nothing": lambda t, k, b, c, s: (t.was(k.weight[b], 0), t.set(k.weight[b], 7))[-1],  # type: ignore[func-returns-value]
    "keeps": lambda t, k, b, c, s: None,
}
COLOUR: dict[str, Act] = {
    "moves": lambda t, k, b, c, s: t.move(k.colour[b], (paint(k, "RED"), paint(k, "GREEN")), paint(k, "BLUE")),
    "stays": lambda t, k, b, c, s: t.stay(k.colour[b], paint(k, "GREEN"), paint(k, "BLUE")),
    "is set": lambda t, k, b, c, s: t.set(k.colour[b], paint(k, "GREEN")),
    "follows": lambda t, k, b, c, s: t.set(k.colour[b], if_else(k.lies(c, s), paint(k, "RED"), k.colour(b))),
    "keeps": lambda t, k, b, c, s: None,
}


def paint(room: Room, name: str) -> Expr:
    return Expr("enum", room.spec.enums["Colour"], name, type="Colour")


def count_of(count: Count, interpreter: Interpreter, state: State, index: dict[str, int]) -> int:
    size = {"Ball": BALLS, "Shelf": SHELVES}[count.over.type]
    weight = lift(1) if count.weight is None else count.weight
    names = [{**index, count.over.name: x} for x in range(size)]
    return sum(interpreter.evaluate(weight, n, state) for n in names if interpreter.evaluate(count.condition, n, state))


def recount(spec: Spec, interpreter: Interpreter, state: State) -> None:
    """Every counter gets the value that it means."""
    for name, count in spec.counts.items():
        sizes = [{"Ball": BALLS, "Shelf": SHELVES}[i.type] for i in count.index]
        for at in itertools.product(*map(range, sizes)):
            names = {i.name: x for i, x in zip(count.index, at, strict=True)}
            state.set(name, at, count_of(count, interpreter, state, names))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*ON_THE_SHELF]),
    st.sampled_from([*WEIGHT]),
    st.sampled_from([*COLOUR]),
    st.permutations(range(BALLS)),
    st.permutations(range(SHELVES)),
    st.lists(st.booleans(), min_size=BALLS * SHELVES, max_size=BALLS * SHELVES),
    st.lists(st.integers(0, 4), min_size=BALLS, max_size=BALLS),
    st.lists(st.sampled_from(["RED", "GREEN", "BLUE"]), min_size=BALLS, max_size=BALLS),
)
def test_derived_effects_are_the_change_of_what_is_counted(
    act: str,
    weigh: str,
    colour: str,
    balls: list[int],
    shelves: list[int],
    lie: list[bool],
    weights: list[int],
    is_: list[str],
) -> None:
    kit = room()
    spec = kit.spec

    @spec.transition(b=spec.sorts["Ball"], c=spec.sorts["Ball"], s=spec.sorts["Shelf"], other=spec.sorts["Shelf"])
    def change(t: Transition, b: Expr, c: Expr, s: Expr, other: Expr) -> None:
        for kind in (ON_THE_SHELF[act], WEIGHT[weigh], COLOUR[colour]):
            kind(t, kit, b, c, s)

    interpreter = Interpreter(spec, {})
    state = interpreter.start()
    for i, (x, y) in enumerate(itertools.product(range(BALLS), range(SHELVES))):
        state.set("lies", (x, y), lie[i])
    for i in range(BALLS):
        state.set("weight", (i,), weights[i])
        state.set("colour", (i,), is_[i])
    names = {"b": balls[0], "c": balls[1], "s": shelves[0], "other": shelves[1]}
    for place, value in change.known:  # a hint is about the states in which the transition is taken
        at = tuple(names[str(i.args[0])] for i in place.index)
        state.set(place.variable.name, at, interpreter.evaluate(value, {}, state))
    recount(spec, interpreter, state)
    if not all(interpreter.evaluate(g.condition, names, state) for g in change.guards):
        return
    following = interpreter.apply(state, change, names, {"Ball": BALLS, "Shelf": SHELVES})
    counted = following.copy()
    recount(spec, interpreter, counted)
    assert following.values == counted.values


def test_guards_and_hints_make_the_effect_as_short_as_by_hand() -> None:
    kit = room()
    ball, shelf = kit.spec.sorts["Ball"], kit.spec.sorts["Shelf"]

    @kit.spec.transition(b=ball, s=shelf)
    def put(t: Transition, b: Expr, s: Expr) -> None:
        t.move(kit.colour[b], paint(kit, "RED"), paint(kit, "BLUE"))
        t.join(kit.lies[b, s])

    assert {e.variable.name: to_text(e.value) for e in put.effects} == {
        "colour": "BLUE",
        "lies": "true",
        "balls": "balls(s) + 1",
        "load": "load(s) + weight(b)",
        "shelves": "shelves(b) + 1",
        "not_red": "not_red + 1",
        "bright": "bright + 1",
        "lying": "lying + 1",
    }


def test_no_transition_may_write_a_counter() -> None:
    kit = room()
    with pytest.raises(SpecError, match="put writes balls; that follows from what the counter counts"):

        @kit.spec.transition(b=kit.spec.sorts["Ball"], s=kit.spec.sorts["Shelf"])
        def put(t: Transition, b: Expr, s: Expr) -> None:
            t.join(kit.lies[b, s])
            t.add(kit.spec.variables["balls"][s], 1)


def test_every_counter_of_the_scheduler_is_written() -> None:
    written = {e.variable.name for t in SPEC.transitions.values() for e in t.effects}
    assert set(SPEC.counts) <= written
