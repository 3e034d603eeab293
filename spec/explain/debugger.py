"""Why a proof fails: the scheduler does something wrong, or the invariants say too little.

The two look alike to a solver. They are told apart by search: a violation that the start leads to is a mistake of the
machines, and its shortest trace is shown; if there is none in the small instances, a state is shown that satisfies
every invariant and leads to a violation, and one has to find out why it cannot be reached, and say so in a lemma.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..language.expressions import if_else, lift, one_if, substituted, to_text
from ..language.progress import Progress
from ..language.ranking_claims import KINDS
from ..language.spec import Choice, Spec
from ..prove.prover import Obligation
from ..search.explore import Explored, compiled_from
from ..search.instances import INSTANCES, SEARCH_CONSTANTS
from ..search.interpreter import State
from ..search.python_search import NO_IDLE_TRANSITION, PythonSearch
from ..search.reachable import PYTHON_INSTANCES, PYTHON_STATES, searches
from ..search.variants import variant
from .cti import SmallCounterexamples, SmallState
from .stage_explanation import StageExplanation, claim_of, refusals
from .timeline import Replay, Timeline, rename

PER_SORT = (1, 2, 3)
"""Numbers of individuals of each sort among which counterexamples to induction are looked for."""

LEMMA_INSTANCES = INSTANCES[:9:3]
"""Where a false lemma is looked for when no property becomes false."""

LARGEST_BOUND = 4
"""The longest prompt and output tried around a counterexample to induction."""


@dataclass
class Finding:
    """One explained failure.

    `verdict`: "scheduler is wrong" (`timeline` starts at the initial state), "invariant too weak" (`timeline` starts at
    a state that satisfies every invariant and is not known to be reachable), "stage does not end" (of liveness:
    `timeline` starts at such a state, `way` leads to one like it from the initial state, if a search found it) or
    "unexplained".
    `searched`: the instances that were searched for a reachable violation; `also`: other claims that the same
    transition does not keep; `stale`: the compiled explorer could not be used.
    """

    transition: str
    claim: str
    verdict: str
    timeline: Timeline | None = None
    searched: list[Explored] = field(default_factory=list)
    also: tuple[str, ...] = ()
    stale: bool = False
    way: Timeline | None = None

    @property
    def found(self) -> Explored | None:
        """The search that found the violation."""
        return self.searched[-1] if self.searched and self.searched[-1].violated else None

    @property
    def first_lemma(self) -> tuple[int, str] | None:
        """The first lemma or counter that becomes false, with the number of its event."""
        for number, moment in enumerate(self.timeline.moments if self.timeline else (), 1):
            for name in moment.first_false:
                return number, name
        return None

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {
            "transition": self.transition, "claim": self.claim, "verdict": self.verdict, "also": list(self.also),
            "first_lemma": self.first_lemma and self.first_lemma[1],
            "timeline": self.timeline.as_json() if self.timeline else None,
            "way": self.way.as_json() if self.way else None,
            "searched": [
                {"instance": str(e.instance), "states": e.states, "complete": e.complete} for e in self.searched
            ],
        }  # fmt: skip


def debug(spec: Spec, failures: Sequence[Obligation], labels: Sequence[str] = (), most: int = 3) -> list[Finding]:
    """Explain failed obligations: one reachable violation, or else up to `most` counterexamples to induction.

    `labels`: guards and effects that are left out of the specification.
    """
    reachable = reachable_violation(spec, labels)
    if reachable is None and any(o.claim == NO_IDLE_TRANSITION for o in failures):
        reachable = idle_transition(spec, labels)
    if reachable is not None:
        reachable.also = tuple(dict.fromkeys(o.claim for o in failures if o.claim != reachable.claim))
        return [reachable]
    stale = not compiled_from(spec)
    unreached = complete_searches(spec, labels) if failures else []
    findings = []
    with variant(spec, labels):
        explainer = Explainer(spec)
        for subject in list(dict.fromkeys(o.subject for o in failures))[:most]:
            own = [o for o in failures if o.subject == subject]
            first = min(own, key=lambda o: _rank(spec, o.claim))
            finding = explainer.explain(first)
            finding.also = tuple(o.claim for o in own if o is not first)
            if not finding.found and subject in spec.transitions:
                finding.searched = [*unreached, *finding.searched]
            finding.stale = stale
            findings.append(finding)
    return findings


def _rank(spec: Spec, claim: str) -> int:
    """What people understand first comes first: properties, then counters, then lemmas."""
    kind = spec.properties[claim].kind if claim in spec.properties else "count"
    stage = claim.partition(": ")[0] in spec.stages
    return 3 if stage else {"property": 0, "action": 0, "count": 1, "lemma": 2}[kind]


def reachable_violation(spec: Spec, labels: Sequence[str] = ()) -> Finding | None:
    """The shortest way to a false property, or to a false lemma or counter if no property becomes false."""
    for lemmas, instances in ((False, ()), (True, LEMMA_INSTANCES)):
        done = searches(spec, labels, lemmas, instances=instances)
        found = done[-1]
        if found.violated:
            timeline = Replay(spec, found.instance, labels).timeline(found.trace, found.violated)
            finding = Finding(found.trace[-1][0], found.violated, "scheduler is wrong", timeline, done)
            finding.stale = not compiled_from(spec)
            return finding
    return None


def idle_transition(spec: Spec, labels: Sequence[str] = ()) -> Finding | None:
    """The shortest way to a transition that changes nothing."""
    for instance in PYTHON_INSTANCES:
        with variant(spec, labels) as changed:
            found = PythonSearch(changed, instance).search(PYTHON_STATES, check_idle=True)
        if found.violated == NO_IDLE_TRANSITION:
            timeline, _ = Replay(spec, instance, labels).events(found.trace)
            fill_in_idle(timeline)
            return Finding(found.trace[-1][0], found.violated, "scheduler is wrong", timeline, [found])
    return None


def complete_searches(spec: Spec, labels: Sequence[str] = ()) -> list[Explored]:
    """Searches, with short prompts and outputs, that visited every reachable state of their instance."""
    done: list[Explored] = []
    for instance in (dataclasses.replace(i, page=1, max_prompt=1, max_output=1) for i in LEMMA_INSTANCES):
        if all(e.instance != instance for e in done):
            done += searches(spec, labels, lemmas=True, instances=(instance,))
            if not done[-1].complete:
                break
    return [e for e in done if e.complete]


class Explainer:
    """Finds a small state for one failed obligation; questions about the same number of individuals share a solver."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.way: Timeline | None = None
        self.solvers: dict[int, SmallCounterexamples] = {}

    def explain(self, o: Obligation) -> Finding:
        """The finding about one obligation that is not proved."""
        if o.kind in KINDS:
            return self._stage(o)
        if o.subject == "initial state":
            return self._initial(o)
        for choice in self.spec.choices:
            if o.subject == choice.name:
                return self._choice(o, choice)
        if o.subject in self.spec.progress:
            return self._progress(o, self.spec.progress[o.subject])
        if o.subject in self.spec.transitions:
            for n in PER_SORT:
                small = self._before(o, self.solvers.setdefault(n, SmallCounterexamples(self.spec, n)))
                if small is not None:
                    done = self._search_around(o, small)
                    if self.way is not None:
                        return Finding(o.subject, done.violated, "scheduler is wrong", self.way, [done])
                    return Finding(o.subject, o.claim, "invariant too weak", self._one_event(o, small), [done])
        return Finding(o.subject, o.claim, "unexplained")

    def _search_around(self, o: Obligation, small: SmallState) -> Explored:
        """Search the counterexample's own scope, with numbers as large as its own, also those that it is given."""
        original = dict(self.spec.ranges)
        for p in self.spec.transitions[o.subject].parameters:
            if p.type not in self.spec.sorts:
                low, high = original[o.subject, p.name]
                wanted = lift(small.bindings[p.name])
                widened = if_else(low <= wanted, low, wanted), if_else(high <= wanted, wanted, high)
                self.spec.ranges[o.subject, p.name] = widened
        try:
            bounds = dict.fromkeys(SEARCH_CONSTANTS, min(small.largest_number(), LARGEST_BOUND))
            scope = dataclasses.replace(small, population=small.taking_part(self.spec))
            done = PythonSearch(self.spec, scope, bounds).search(PYTHON_STATES, check_lemmas=True)
            self.way = None
            if done.violated:
                self.way = Replay(self.spec, done.instance).timeline(done.trace, done.violated)
            return done
        finally:
            self.spec.ranges.clear()
            self.spec.ranges.update(original)

    def _before(self, o: Obligation, small: SmallCounterexamples) -> SmallState | None:
        transition = self.spec.transitions[o.subject]
        if o.claim in self.spec.properties:
            return small.before(transition, self.spec.properties[o.claim])
        if o.claim.startswith("count "):
            return small.wrong_count(transition, o.claim.removeprefix("count "))
        return small.idle(transition)

    def _one_event(self, o: Obligation, small: SmallState) -> Timeline:
        replay = Replay(self.spec, small)
        timeline = Timeline(replay.individuals)
        timeline.start = tuple(replay.edits(replay.interpreter.start(), small.state))
        transition = self.spec.transitions[o.subject]
        state = replay.take(timeline, small.state, transition, small.bindings, set())
        if o.claim in self.spec.properties or o.claim.startswith("count "):
            replay.explain(timeline, o.claim, small.state, state, transition.name)
        else:
            timeline.violated, timeline.meaning = o.claim, "Every transition changes the state; here it does not."
        return timeline

    def _stage(self, o: Obligation) -> Finding:
        """A state from which a stage of liveness neither goes on nor comes nearer to its end."""
        claim = claim_of(self.spec, o)
        for n in PER_SORT:
            small = self.solvers.setdefault(n, SmallCounterexamples(self.spec, n)).unproved(claim)
            if small is not None:
                bounds = dict.fromkeys(SEARCH_CONSTANTS, min(small.largest_number(), LARGEST_BOUND))
                scope = dataclasses.replace(small, population=small.taking_part(self.spec))
                done = PythonSearch(self.spec, scope, bounds, claim).search(PYTHON_STATES)
                reached = (
                    Replay(self.spec, done.instance).events(done.trace)[0] if done.violated == claim.name else None
                )
                timeline = StageExplanation(self.spec, claim, small).timeline()
                return Finding(o.subject, o.claim, "stage does not end", timeline, [done], way=reached)
        return Finding(o.subject, o.claim, "unexplained")

    def _initial(self, o: Obligation) -> Finding:
        replay = Replay(self.spec, INSTANCES[0])
        timeline = Timeline(replay.individuals)
        start = replay.interpreter.start()
        if any(v.property == o.claim for v in replay.interpreter.violations(start, replay.population)):
            replay.explain(timeline, o.claim, start, start, "")
        return Finding(o.subject, o.claim, "scheduler is wrong" if timeline.violated else "unexplained", timeline)

    def _choice(self, o: Obligation, choice: Choice) -> Finding:
        """A state in which none of the transitions is possible, or two are."""
        done = searches(self.spec, lemmas=True, choices=True)
        if done[-1].violated == choice.name:
            replay = Replay(self.spec, done[-1].instance)
            timeline, state = replay.events(done[-1].trace)
            fill_in_choice(self.spec, replay, timeline, choice, state)
            return Finding(choice.name, o.claim, "scheduler is wrong", timeline, done)
        possible = lift(0)
        for name in choice.transitions:
            guards = lift(True)
            for g in self.spec.transitions[name].guards:
                guards = guards & substituted(g.condition, choice.arguments)
            possible = possible + one_if(guards)
        for n in PER_SORT:
            small = self.solvers.setdefault(n, SmallCounterexamples(self.spec, n))
            found = small.satisfying(choice.parameters, choice.when & (possible != 1))
            if found is not None:
                replay = Replay(self.spec, found)
                timeline = Timeline(replay.individuals)
                timeline.start = tuple(replay.edits(replay.interpreter.start(), found.state))
                fill_in_choice(self.spec, replay, timeline, choice, found.state)
                return Finding(choice.name, o.claim, "invariant too weak", timeline, done)
        return Finding(choice.name, o.claim, "unexplained")

    def _progress(self, o: Obligation, claim: Progress) -> Finding:
        """A state in which none of the options is possible."""
        for n in PER_SORT:
            found = self.solvers.setdefault(n, SmallCounterexamples(self.spec, n)).stuck(claim)
            if found is None:
                continue
            replay = Replay(self.spec, found)
            timeline = Timeline(replay.individuals)
            timeline.start = tuple(replay.edits(replay.interpreter.start(), found.state))
            timeline.violated, timeline.meaning = claim.name, claim.doc
            timeline.witnesses = {p.name: replay.name(p.type, found.bindings[p.name]) for p in claim.parameters}
            timeline.conjunct = "possible: none of the options"
            timeline.values = refusals(replay, claim, found.bindings, found.state)
            return Finding(claim.name, o.claim, "invariant too weak", timeline)
        return Finding(claim.name, o.claim, "unexplained")


def fill_in_idle(timeline: Timeline) -> None:
    """Write into the timeline that its last event changes nothing."""
    timeline.violated, timeline.meaning = NO_IDLE_TRANSITION, "Every transition changes the state."
    timeline.conjunct = f"{timeline.moments[-1].event} changes nothing"


def fill_in_choice(spec: Spec, replay: Replay, timeline: Timeline, choice: Choice, state: State) -> bool:
    """Find for whom not exactly one transition of the choice is possible, and write into the timeline which are and
    why the others are not. Returns whether there is somebody.
    """
    for individuals in replay.interpreter.bindings(choice.parameters, replay.population):
        if not replay.interpreter.evaluate(choice.when, individuals, state):
            continue
        possible, refused = [], []
        witnesses = {p.name: replay.name(p.type, individuals[p.name]) for p in choice.parameters}
        arguments = {n: replay.interpreter.evaluate(e, individuals, state) for n, e in choice.arguments.items()}
        for name in choice.transitions:
            guard = replay.interpreter.false_guard(state, spec.transitions[name], {**individuals, **arguments})
            if guard is None:
                possible.append(name)
            else:
                condition = to_text(rename(guard.condition, witnesses))
                refused.append(f"{name} is refused by {guard.name!r}: {condition}")
        if len(possible) != 1:
            timeline.violated, timeline.meaning, timeline.witnesses = choice.name, choice.doc, witnesses
            timeline.conjunct = f"possible: {' and '.join(possible) or 'none of them'}"
            timeline.values = tuple(refused)
            return True
    return False


__all__ = ["Explainer", "Finding", "complete_searches", "debug", "fill_in_choice", "reachable_violation"]
