"""Names of individuals do not matter, threads do not matter, and step numbers matter only relative to each other."""

from __future__ import annotations

import random

import pytest

from tokenspeed.spec.search._explorer import Explorer
from tokenspeed.spec.search.explore import search
from tokenspeed.spec.search.instances import LOCK_STEP, Instance

SMALL = Instance(1, 2, 1, page=1, max_prompt=1, max_output=1)
WIDE = LOCK_STEP[-1]


def test_a_renamed_state_has_the_same_normal_form() -> None:
    explorer = Explorer(WIDE.population)
    explorer.explore(constants=WIDE.constants, max_states=40_000)
    states = explorer.sample(0, 40)
    size = explorer.state_bytes
    rng = random.Random(1)
    same = renamed = 0
    for at in range(0, len(states), size):
        state = states[at : at + size]
        orders = [rng.sample(range(n), n) for n in WIDE.population.values()]
        same += explorer.canonical(state, orders) == state
        renamed += any(order != sorted(order) for order in orders)
    assert renamed > 500
    assert same >= 0.999 * (len(states) // size)


def test_reduction_changes_the_number_of_states_only() -> None:
    every = search(SMALL, check_lemmas=True, reduce=False)
    reduced = search(SMALL, check_lemmas=True)
    assert every.complete and reduced.complete and not every.violated and not reduced.violated
    assert reduced.states < every.states
    assert reduced.depth == every.depth
    assert {t for t, n in reduced.taken.items() if n} == {t for t, n in every.taken.items() if n}


def test_orbits_of_the_reduced_states_are_all_states() -> None:
    """With one individual of every other sort, two blocks give orbits of one state or of two."""
    explorer = Explorer(SMALL.population)
    reduced = explorer.explore(constants=SMALL.constants, max_states=1_000_000)
    plain = Explorer(SMALL.population)
    every = plain.explore(constants=SMALL.constants, max_states=1_000_000, reduce=False)
    states, size = plain.sample(0, 1), plain.state_bytes
    identity = [list(range(n)) for n in SMALL.population.values()]
    forms = {plain.canonical(states[at : at + size], identity) for at in range(0, len(states), size)}
    found = explorer.sample(0, 1)
    assert every.states == len(states) // size
    assert forms == {found[at : at + size] for at in range(0, len(found), size)}
    assert len(forms) == reduced.states


@pytest.mark.parametrize("dropped", [(), ("evict:not in flight",), ("evict:effect fill",)])
def test_threads_do_not_change_the_result(dropped: tuple[str, ...]) -> None:
    one = search(LOCK_STEP[1], dropped, max_states=60_000, threads=1)
    three = search(LOCK_STEP[1], dropped, max_states=60_000, threads=3)
    assert (one.states, one.transitions, one.depth) == (three.states, three.transitions, three.depth)
    assert (one.taken, one.violated, one.trace) == (three.taken, three.violated, three.trace)
