"""A failed obligation of liveness is explained: stage, ranks, the state before, and whether a search meets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenspeed.spec.explain.debugger import Explainer, Finding, debug
from tokenspeed.spec.language.expressions import lift
from tokenspeed.spec.machines.vocabulary import known
from tokenspeed.spec.prove.prover import Prover
from tokenspeed.spec.search.variants import variant
from tokenspeed.spec.system import SPEC

OLDEST = SPEC.stages["the oldest request"]


@contextmanager
def changed(items: list[Any]) -> Iterator[None]:
    """The list may be changed, and is restored."""
    original = list(items)
    try:
        yield
    finally:
        items[:] = original


def explained(transition: str | None, claim: str) -> Finding:
    """The finding about one obligation that has to fail."""
    failed = Prover(SPEC).prove_stages(SPEC.transitions[transition] if transition else None)
    own = [o for o in failed if o.claim == claim and not o.proved]
    assert len(own) == 1
    finding = Explainer(SPEC).explain(own[0])
    assert finding.verdict == "stage does not end" and finding.claim == claim
    assert finding.timeline is not None and finding.timeline.violated == claim
    return finding


def events(finding: Finding) -> list[str]:
    """The way from the start to the failure, by the names of its transitions."""
    assert finding.way is not None
    return [m.event.partition("(")[0] for m in finding.way.moments]


def test_helpful_transition_that_lowers_no_rank() -> None:
    with changed(OLDEST.ranks):
        OLDEST.ranks[:] = [n for n in OLDEST.ranks if "WAITING" not in str(n)]
        finding = explained("admit", "it waits: advanced")
    assert finding.timeline is not None and finding.timeline.values[-1].startswith("no longer: request_state(")
    assert "rank of" not in " ".join(finding.timeline.values)
    assert {e.owner: e.new for e in finding.timeline.start if e.is_state} == {"r0": "WAITING"}
    assert events(finding) == ["submit", "admit"]
    assert finding.as_json()["way"]["moments"]


def test_rank_that_grows_is_named_with_its_values() -> None:
    with changed(OLDEST.ranks):
        OLDEST.ranks[0] = known(OLDEST.parameters[0].expr)
        finding = explained("land_row", "the oldest request: kept")
    assert finding.timeline is not None and finding.timeline.moments[0].event.startswith("land_row")
    assert finding.timeline.values[0].startswith("rank of 'the oldest request', part 1: known(")
    assert finding.timeline.values[0].endswith("larger")


def test_missing_clause_shows_what_it_forbids() -> None:
    name = "no host page is dropped"
    original = dict(SPEC.clauses)
    del SPEC.clauses[name]
    try:
        finding = explained("drop_page", "it needs memory: kept")
    finally:
        SPEC.clauses.clear()
        SPEC.clauses.update(original)  # in the order that its hash is of
    assert finding.timeline is not None
    assert "rank of 'it needs memory', part 2: spare_pages is 0, then 1: larger" in finding.timeline.values


def test_nobody_can_help() -> None:
    with variant(SPEC, ["admit"]):
        failed = [o for o in Prover(SPEC).prove_stages() if not o.proved]
        assert [o.claim for o in failed] == ["it waits: served"]
        (finding,) = debug(SPEC, failed)
    assert finding.timeline is not None
    assert finding.timeline.values == ("admit(r0) is refused by 'switched off'",)
    assert events(finding) == ["submit"]


def test_uncovered_situation_says_why_no_stage_inside_holds() -> None:
    waits = SPEC.stages["it waits"]
    place = OLDEST.children.index(waits)
    with changed(OLDEST.children), changed(OLDEST.cover.alternatives):
        del OLDEST.children[place], OLDEST.cover.alternatives[place]
        finding = explained(None, "the oldest request: covered")
    assert finding.timeline is not None and len(finding.timeline.values) == len(OLDEST.children) - 1
    assert finding.timeline.values[0].startswith("not 'it was retracted': request_state(")
    assert events(finding) == ["submit"]


def test_rank_below_zero() -> None:
    with changed(OLDEST.ranks):
        OLDEST.ranks.append(lift(0) - known(OLDEST.parameters[0].expr))
        finding = explained(None, "the oldest request: bounded")
    assert finding.timeline is not None and finding.timeline.values == ("known(r0) = 1",)
