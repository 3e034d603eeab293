"""A failed proof is explained: a trace from the start, or a small state that the invariants should have excluded."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenspeed.spec.explain.cti import SmallCounterexamples
from tokenspeed.spec.explain.debugger import Finding, debug
from tokenspeed.spec.explain.timeline import Edit, Replay, in_words
from tokenspeed.spec.explain.timeline_page import timeline_page, write_timeline_page
from tokenspeed.spec.language.expressions import to_text
from tokenspeed.spec.language.spec import Spec
from tokenspeed.spec.prove.prover import Obligation, Prover
from tokenspeed.spec.search.explore import compiled_from, search
from tokenspeed.spec.search.instances import INSTANCES, Instance
from tokenspeed.spec.search.interpreter import Interpreter
from tokenspeed.spec.search.python_search import NO_IDLE_TRANSITION, PythonSearch
from tokenspeed.spec.search.reachable import counterexample, survey_anyway
from tokenspeed.spec.search.variants import variant
from tokenspeed.spec.system import SPEC

SMALL = Instance(requests=1, blocks=2, steps=1, page=1, max_prompt=1, max_output=1)


@pytest.fixture
def without_a_property(request: pytest.FixtureRequest) -> Iterator[Spec]:
    """The specification without one of its invariants."""
    original = dict(SPEC.properties)
    del SPEC.properties[request.param]
    yield SPEC
    SPEC.properties.clear()
    SPEC.properties.update(original)


def failures(spec: Spec, *transitions: str) -> list[Obligation]:
    prover = Prover(spec)
    return [o for o in prover.prove([spec.transitions[t] for t in transitions]) if not o.proved]


def test_python_search_visits_what_the_explorer_visits() -> None:
    compiled = search(SMALL, check_lemmas=True, reduce=False)
    python = PythonSearch(SPEC, SMALL).search(100_000, check_lemmas=True)
    for field in ("states", "transitions", "depth", "complete", "taken", "violated"):
        assert getattr(python, field) == getattr(compiled, field), field


@pytest.mark.parametrize("label", ["reap:not in flight", "observe:device idle", "evict:effect block_state"])
def test_python_search_finds_the_same_shortest_trace(label: str) -> None:
    compiled = search(INSTANCES[0], (label,))
    with variant(SPEC, [label]):
        python = PythonSearch(SPEC, INSTANCES[0]).search(50_000)
    assert python.violated == compiled.violated != ""
    # The explorer gives four arguments always.
    assert [(name, (*arguments, 0, 0, 0, 0)[:4]) for name, arguments in python.trace] == list(compiled.trace)


def test_edited_specification_is_searched_although_the_explorer_is_of_another() -> None:
    assert compiled_from(SPEC)
    with variant(SPEC, ["reap:not in flight"]):
        assert not compiled_from(SPEC)
        found = counterexample(SPEC)
        exploration = survey_anyway(SPEC)
    assert found is not None and found.trace[-1][0] == "reap"
    assert exploration.stale and not exploration.sound and exploration.violations


def test_wrong_scheduler_is_told_with_a_trace_from_the_start() -> None:
    with variant(SPEC, ["release_owned:not in flight"]):
        findings = debug(SPEC, failures(SPEC, "release_owned"))
    assert [f.verdict for f in findings] == ["scheduler is wrong"]
    timeline = findings[0].timeline
    assert timeline is not None and timeline.moments[0].event.startswith("submit") and not timeline.start
    assert timeline.moments[-1].event.startswith("release_owned")
    assert findings[0].claim == timeline.violated in SPEC.properties
    assert findings[0].stale and findings[0].found is not None
    for value in timeline.values:
        assert value.split(" = ")[0] in timeline.conjunct


def test_counterexample_is_searched_for_with_its_own_arguments() -> None:
    """More tokens than a page are not among the values that searches try, until a counterexample asks for them."""
    with variant(SPEC, ["receive:room in block"]):
        failed = failures(SPEC, "receive")
        finding = debug(SPEC, failed, most=1)[0]
    assert finding.verdict == "scheduler is wrong"
    assert finding.timeline is not None and finding.found is not None
    match = re.search(r"receive\(.*n=(\d+)\)", finding.timeline.moments[-1].event)
    assert match is not None and int(match[1]) > finding.found.instance.constants["PAGE"]


def weak(finding: Finding) -> None:
    """The state before satisfies every invariant, the event is allowed there, and the claim is false after it."""
    assert finding.verdict == "invariant too weak"
    timeline = finding.timeline
    assert timeline is not None and timeline.start and len(timeline.moments) == 1
    assert timeline.violated == finding.claim and timeline.conjunct
    assert finding.searched and all(not e.violated for e in finding.searched)


@pytest.mark.parametrize("without_a_property", ["last step exists"], indirect=True)
def test_weak_invariant_is_told_with_the_state_before(without_a_property: Spec) -> None:
    failed = failures(without_a_property, "open_step", "prefill")
    assert failed
    findings = debug(without_a_property, failed)
    for finding in findings:
        weak(finding)
    assert {f.transition for f in findings} == {o.subject for o in failed}


@pytest.mark.parametrize("without_a_property", ["last step exists"], indirect=True)
def test_small_counterexample_is_one_by_the_interpreters_account(without_a_property: Spec) -> None:
    spec = without_a_property
    o = failures(spec, "open_step")[0]
    found = SmallCounterexamples(spec, 1).before(spec.transitions[o.subject], spec.properties[o.claim])
    assert found is not None
    interpreter = Interpreter(spec, found.constants)
    assert list(interpreter.violations(found.state, found.population)) == []
    after = interpreter.apply(found.state, spec.transitions[o.subject], found.bindings, found.population)
    assert o.claim in {v.property for v in interpreter.violations(after, found.population)}
    assert all(found.constants[name] >= low for name, (_, low, _) in spec.constants.items())


def test_forgotten_effect_on_a_counter_is_the_first_to_become_false() -> None:
    with variant(SPEC, ["allocate:effect refs"]):
        finding = debug(SPEC, failures(SPEC, "allocate"))[0]
    assert finding.verdict == "scheduler is wrong" and finding.timeline is not None
    number, name = finding.first_lemma or (0, "")
    assert name == "count refs" and finding.timeline.moments[number - 1].event.startswith("allocate")


def test_transition_that_changes_nothing() -> None:
    with variant(SPEC, ["abort:effect request_state"]):
        failed = [o for o in failures(SPEC, "abort") if o.claim == "no idle transition"]
        finding = debug(SPEC, failed)[0]
    assert finding.timeline is not None and finding.timeline.moments[-1].edits == ()
    with variant(SPEC, ["abort:effect request_state"]):
        assert PythonSearch(SPEC, SMALL).search(1000, check_idle=True).violated == NO_IDLE_TRANSITION


def test_choice_that_is_not_possible_names_the_guard_that_refuses() -> None:
    with variant(SPEC, ["reap"]):
        prover = Prover(SPEC)
        failed = [o for c in SPEC.choices if "reap" in c.transitions for o in prover.prove_choice(c) if not o.proved]
        finding = debug(SPEC, failed)[0]
    assert finding.timeline is not None and finding.timeline.conjunct == "possible: none of them"
    assert finding.timeline.values == ("reap is refused by 'switched off': false",)


def test_false_part_of_a_conjunction_is_named_with_its_values() -> None:
    found = counterexample(SPEC, ["decode:output left"])
    assert found is not None
    timeline = Replay(SPEC, found.instance, ["decode:output left"]).timeline(found.trace, found.violated)
    whole = to_text(SPEC.properties[found.violated].formula)
    assert timeline.violated == "no overshoot" and " & " in whole and " & " not in timeline.conjunct
    assert any(re.fullmatch(r"planned\(r0\) = \d+", v) for v in timeline.values)


def test_page_has_every_event_and_needs_no_network(tmp_path: Path) -> None:
    found = counterexample(SPEC, ["reap:not in flight"])
    assert found is not None
    timeline = Replay(SPEC, found.instance, ["reap:not in flight"]).timeline(found.trace, found.violated)
    path = tmp_path / "page.html"
    write_timeline_page(path, "A <title> & more", timeline, SPEC)
    page = path.read_text()
    assert "A &lt;title&gt; &amp; more" in page and timeline.violated in page and "ArrowRight" in page
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert match is not None
    data = json.loads(match[1])
    assert [m["event"] for m in data["moments"]] == [m.event for m in timeline.moments]
    assert data["moments"][-1]["notes"][0] == "The guard “not in flight” would have refused."
    assert page.count('<th scope="row">') == len(timeline.moments)
    assert page == timeline_page("A <title> & more", timeline, SPEC)


def test_page_escapes_what_would_end_the_script() -> None:
    found = counterexample(SPEC, ["reap:not in flight"])
    assert found is not None
    timeline = Replay(SPEC, found.instance, ["reap:not in flight"]).timeline(found.trace, found.violated)
    timeline.moments[0] = dataclasses.replace(timeline.moments[0], meaning="</script><b>")
    assert "</script><b>" not in timeline_page("t", timeline, SPEC)


def test_values_after_the_last_event_are_those_of_the_interpreter() -> None:
    """What the page adds up from the edits is the state that the trace leads to."""
    found = counterexample(SPEC, ["reap:not in flight"])
    assert found is not None
    replay = Replay(SPEC, found.instance, ["reap:not in flight"])
    timeline, state = replay.events(found.trace)
    shown: dict[tuple[str, str], Edit] = {}
    for edit in (e for m in timeline.moments for e in m.edits):
        assert edit.old == shown.get((edit.owner, edit.field), edit).new or (edit.owner, edit.field) not in shown
        shown[edit.owner, edit.field] = edit
    expected = {(e.owner, e.field): e.new for e in replay.edits(replay.interpreter.start(), state)}
    assert {k: e.new for k, e in shown.items() if k in expected} == expected


def test_words() -> None:
    assert in_words(Edit("b0", "block_state", "FREE", "OWNED", is_state=True)) == "OWNED"
    assert in_words(Edit("r0", "holds b0", "false", "true")) == "holds b0"
    assert in_words(Edit("r0", "holds b0", "true", "false")) == "no holds b0"
    assert in_words(Edit("r0", "known", "1", "2")) == "known=2"
