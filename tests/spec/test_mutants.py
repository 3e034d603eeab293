"""Mutants of the specification are noticed, and those that are not are the ones that we know of."""

from __future__ import annotations

import pytest

from tokenspeed.spec.prove.mutants import Mutant, Mutation, mutants, score
from tokenspeed.spec.system import SPEC


def find(text: str) -> Mutant:
    return next(m for m in mutants(SPEC) if str(m) == text)


@pytest.mark.parametrize(
    ("mutant", "verdict", "killer"),
    [
        ("drop guard release_owned:not in flight", "killed", "no free block in flight"),
        ("drop effect release_to_limbo:stamp(b)", "killed", "reads are held or stamped"),
        ("twice effect allocate:free", "killed", "conservation"),
        ("drop effect abort:request_state(r)", "killed", "no idle transition"),
        ("drop guard fetch_done:block FETCHING", "equivalent", ""),
        ("drop guard retract:strictly older", "killed", "the oldest running request is never retracted"),
        ("drop guard evict:not being copied", "killed", "copies touch no free block"),
    ],
)
def test_known_mutants(mutant: str, verdict: str, killer: str) -> None:
    outcome = Mutation(SPEC).judge(find(mutant))
    assert outcome.verdict == verdict
    assert not killer or killer in outcome.killers


def test_judging_leaves_the_specification_as_it_was() -> None:
    before = SPEC.digest()
    Mutation(SPEC).judge(find("negate guard evict:not in flight"))
    assert SPEC.digest() == before


def test_every_guard_and_effect_has_mutants() -> None:
    places = {
        (m.transition.name, m.part, m.place.partition("(")[0] if m.part == "effect" else m.place) for m in mutants(SPEC)
    }
    for t in SPEC.transitions.values():
        assert {(t.name, "guard", g.name) for g in t.guards} <= places
        assert {(t.name, "effect", e.variable.name) for e in t.effects} <= places


def test_every_mutant_has_a_name_of_its_own() -> None:
    names = [str(m) for m in mutants(SPEC)]
    assert len(set(names)) == len(names)


def test_a_sample_of_mutants_is_killed_by_named_properties() -> None:
    result = score(SPEC, every=23)
    assert len(result.outcomes) > 50
    assert result.share == 1, [str(o.mutant) for o in result.outcomes if o.verdict in ("survived", "lemma only")]
