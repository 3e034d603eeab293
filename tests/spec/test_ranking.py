"""Liveness by stages: what the obligations accept really ends, what they need is needed, both solvers agree."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from tokenspeed.spec.language.expressions import INT, Expr, after, if_else, lift
from tokenspeed.spec.language.ranking import Stage, concerns, make_stage
from tokenspeed.spec.language.spec import Spec
from tokenspeed.spec.prove.prover import Obligation, Prover
from tokenspeed.spec.prove.second_solver import Cvc5Prover
from tokenspeed.spec.system import SPEC

STATES = range(4)
"""Places of a token; at 0 the goal has come."""

Edges = list[tuple[int, int]]
Leaf = tuple[set[int], set[int], tuple[int, ...]]
"""Places, numbers of the helpful edges, and the rank of each place."""


def table(x: Expr, values: tuple[int, ...]) -> Expr:
    result = lift(values[-1])
    for place in reversed(STATES[:-1]):
        result = if_else(x == place, values[place], result)
    return result


def game(edges: Edges, ranks: tuple[int, ...], leaves: list[Leaf]) -> Spec:
    """A token moves along edges. The root: it is not at 0. A leaf: its places, the helpful edges, its rank."""
    spec = Spec("game")
    place = spec.variable("place", of=INT, init=1, doc="where the token is")
    for number, (a, b) in enumerate(edges):

        def move(t, a=a, b=b):  # type: ignore[no-untyped-def]
            t.guard("here", place() == a)
            t.set(place.place, b)

        move.__name__ = f"move{number}"
        spec.transition()(move)

    @spec.lemma()
    def on_the_board() -> Expr:
        return (place() >= 0) & (place() < len(STATES))

    def root(x: Stage) -> None:
        x.when(place() != 0)
        x.rank(table(place(), ranks))
        x.ends_when(after(place()) == 0)

    def leaf(places: set[int], helpful: set[int], own: tuple[int, ...]) -> Callable[[Stage], None]:
        def body(x: Stage) -> None:
            x.when(place().isin(*[lift(p) for p in sorted(places)]))
            x.rank(table(place(), own))
            for number in sorted(helpful):
                x.helpful(f"move{number}")

        return body

    top = make_stage(spec, "root", "", root, "L1")
    for number, (places, helpful, own) in enumerate(leaves):
        make_stage(top, f"leaf {number}", "", leaf(places, helpful, own))
    return spec


def proofs(prover: Prover | Cvc5Prover, spec: Spec) -> list[Obligation]:
    return [o for t in (None, *spec.transitions.values()) for o in prover.prove_stages(t)]


def never_ends(edges: Edges, leaves: list[Leaf]) -> bool:
    """Whether some fair run stays away from 0 for ever: a set of edges that is taken again and again."""
    inside = [n for n, (a, b) in enumerate(edges) if a != 0 and b != 0]
    for size in range(1, len(inside) + 1):
        for cycle in itertools.combinations(inside, size):
            if strongly_connected([edges[n] for n in cycle]):
                visited = {edges[n][0] for n in cycle}
                if all(is_fair(edges, set(cycle), visited, places, helpful) for places, helpful, _ in leaves):
                    return True
    stuck = {p for p in STATES[1:] if not any(a == p for a, _ in edges)}
    return bool(stuck)


def strongly_connected(edges: Edges) -> bool:
    nodes = {x for edge in edges for x in edge}
    for start in nodes:
        reached, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for a, b in edges:
                if a == here and b not in reached:
                    reached.add(b)
                    todo.append(b)
        if reached != nodes:
            return False
    return True


def is_fair(edges: Edges, cycle: set[int], visited: set[int], places: set[int], helpful: set[int]) -> bool:
    """What helps in the leaf is taken, or it cannot always be taken while the leaf lasts, or the leaf does not last."""
    lasts = visited <= places
    possible = all(any(edges[n][0] == p for n in helpful) for p in visited)
    return not (lasts and possible) or bool(cycle & helpful)


def games(seed: int, number: int) -> Iterator[tuple[Edges, tuple[int, ...], list[Leaf]]]:
    """Random games, made so that some are right: edges and ranks mostly lead downwards."""
    dice = random.Random(seed)
    for _ in range(number):
        edges = []
        for a in STATES[1:]:
            for _ in range(dice.randint(1, 2)):
                edges.append((a, dice.choice([b for b in STATES if b != a] + 2 * list(range(a)))))
        ranks = tuple(dice.choice((p // 2, p, 1, 0)) for p in STATES)
        leaves = []
        for _ in range(dice.randint(1, 3)):
            places = {p for p in STATES[1:] if dice.random() < 0.7} or {1}
            helpful = {n for n, (a, b) in enumerate(edges) if a in places and dice.random() < 0.8}
            leaves.append((places, helpful, tuple(dice.choice((p, 3 - p, 0)) for p in STATES)))
        yield edges, ranks, leaves


def test_what_is_proved_ends_in_every_fair_run() -> None:
    """The rule itself, by brute force: no random game with all obligations proved has a fair run that never ends."""
    accepted = endless = 0
    for edges, ranks, leaves in games(1, 400):
        spec = game(edges, ranks, leaves)
        runs_for_ever = never_ends(edges, leaves)
        endless += runs_for_ever
        if all(o.proved for o in proofs(Prover(spec), spec)):
            accepted += 1
            assert not runs_for_ever, (edges, ranks, leaves)
    assert accepted >= 20, "the rule accepts something"
    assert endless >= 20, "and there was something to refuse"


DOWN = [(3, 2), (2, 1), (1, 0)]
ALL = {1, 2, 3}
GAMES: dict[str, tuple[Edges, tuple[int, ...], list[Leaf], set[str]]] = {
    "right": (DOWN, (0, 1, 2, 3), [(ALL, {0, 1, 2}, (0, 0, 0, 0))], set()),
    "goes up": ([*DOWN, (1, 3)], (0, 1, 2, 3), [(ALL, {0, 1, 2}, (0, 0, 0, 0))], {"root: kept"}),
    "goes up inside": (DOWN, (0, 1, 1, 1), [(ALL, {0, 1, 2}, (0, 2, 1, 3))], {"leaf 0: kept", "leaf 0: advanced"}),
    "not covered": (DOWN, (0, 1, 2, 3), [({1, 2}, {1, 2}, (0, 0, 0, 0))], {"root: covered"}),
    "not served": (DOWN, (0, 1, 2, 3), [(ALL, {1, 2}, (0, 0, 0, 0))], {"leaf 0: served"}),
    "does not help": (DOWN, (0, 1, 1, 1), [(ALL, {0, 1, 2}, (0, 1, 1, 2))], {"leaf 0: advanced"}),
    "below zero": (DOWN, (0, -1, 2, 3), [(ALL, {0, 1, 2}, (0, 0, 0, 0))], {"root: bounded"}),
}


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("solver", [Prover, Cvc5Prover])
def test_what_is_wrong_is_named(name: str, solver: type[Prover] | type[Cvc5Prover]) -> None:
    edges, ranks, leaves, wrong = GAMES[name]
    spec = game(edges, ranks, leaves)
    assert {o.claim for o in proofs(solver(spec), spec) if not o.proved} == wrong


@pytest.mark.parametrize("name", SPEC.clauses)
def test_every_clause_of_the_contract_is_needed(name: str) -> None:
    clause = SPEC.clauses.pop(name)
    try:
        transitions = [t for t in SPEC.transitions.values() if concerns(clause.formula, t)]
        first, second = Prover(SPEC), Cvc5Prover(SPEC)
        broken = {(t.name, o.claim) for t in transitions for o in first.prove_stages(t) if not o.proved}
        assert broken
        name_of_one, claim_of_one = min(broken)
        again = second.prove_stages(SPEC.transitions[name_of_one])
        assert {o.claim for o in again if not o.proved} >= {claim_of_one}
    finally:
        SPEC.clauses[name] = clause


def test_taking_turns_without_end_is_not_accepted() -> None:
    """Without the rank of memory, two requests could take blocks from each other for ever."""
    stage = SPEC.stages["it needs memory"]
    ranks, stage.ranks = stage.ranks, []
    try:
        broken = {o.claim for o in Prover(SPEC).prove_stages(SPEC.transitions["release_shared"]) if not o.proved}
        assert "somebody leaves: advanced" in broken
    finally:
        stage.ranks = ranks
