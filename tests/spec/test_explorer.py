"""The compiled explorer agrees with the interpreter, and its counterexamples are real and shortest."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tokenspeed.spec.explain.drop import diagnose
from tokenspeed.spec.explain.timeline import Replay
from tokenspeed.spec.language.expressions import TICK
from tokenspeed.spec.search.explore import search, survey
from tokenspeed.spec.search.instances import Instance
from tokenspeed.spec.search.interpreter import Interpreter, State
from tokenspeed.spec.search.reachable import counterexample
from tokenspeed.spec.system import SPEC


def normal_form(state: State) -> tuple[Any, ...]:
    """As the explorer's: ticks relative to the landed step, arrivals as ranks."""
    origin = state.get("landed", ())
    numbers = sorted({0, *state.values["arrival"].values(), state.get("newest_arrival", ())})
    form = []
    for name, variable in SPEC.variables.items():
        for index, value in state.values[name].items():
            if variable.type == TICK:
                value = 0 if name == "landed" else max(0, value - origin)
            if name in ("arrival", "newest_arrival"):
                value = numbers.index(value)
            if value != variable.init.args[0] or variable.type in SPEC.enums:
                form.append((name, index, value))
    return tuple(sorted(form))


def reachable_states(instance: Instance, limit: int) -> int:
    """Breadth first with the interpreter: the number of normal forms."""
    interpreter = Interpreter(SPEC, instance.constants)
    start = interpreter.start()
    seen, queue = {normal_form(start)}, deque([start])
    while queue:
        state = queue.popleft()
        for transition in SPEC.transitions.values():
            individuals = [p for p in transition.parameters if p.type in instance.population]
            for chosen in itertools.product(*[range(instance.population[p.type]) for p in individuals]):
                base = dict(zip([p.name for p in individuals], chosen, strict=True))
                pending = [base]
                for p in transition.parameters:
                    if p.type not in instance.population:
                        low, high = SPEC.ranges[transition.name, p.name]
                        pending = [
                            {**b, p.name: x}
                            for b in pending
                            for x in range(
                                interpreter.evaluate(low, b, state), interpreter.evaluate(high, b, state) + 1
                            )
                        ]
                for bindings in pending:
                    if interpreter.false_guard(state, transition, bindings) is None:
                        following = interpreter.apply(state, transition, bindings, instance.population, check=False)
                        form = normal_form(following)
                        if form not in seen:
                            seen.add(form)
                            queue.append(following)
        assert len(seen) <= limit
    return len(seen)


def test_explorer_and_interpreter_reach_the_same_number_of_states() -> None:
    instance = Instance(requests=1, blocks=2, steps=1, page=1, max_prompt=1, max_output=1)
    found = search(instance, check_lemmas=True, reduce=False)
    assert found.complete and not found.violated
    assert found.states == reachable_states(instance, limit=20_000) > 300


def test_survey_reaches_every_state_and_transition_without_a_violation() -> None:
    exploration = survey(SPEC)
    assert exploration.sound, (exploration.untaken, exploration.unreached, exploration.violations)
    assert exploration.states > 1_000_000


GUARDS_OF_DIFFERENT_KINDS = [
    "release_owned:not in flight",
    "reap:not in flight",
    "evict:not in flight",
    "publish:written",
    "recycle:drained",
    "retract:drained",
    "observe:device idle",
    "observe:oldest in flight",
    "match_cached:own prefix",
    "decode:room",
    "release_to_cache:held",
    "submit:newest",
    "copy_done:copying",  # only that something changes is violated
]


@pytest.mark.parametrize("label", GUARDS_OF_DIFFERENT_KINDS)
def test_dropped_guard_has_a_short_timeline_that_the_interpreter_confirms(label: str) -> None:
    diagnosis = diagnose(SPEC, label)
    assert diagnosis.verdict == "violated"
    timeline = diagnosis.timeline
    assert timeline is not None
    assert len(timeline.moments) <= 25
    assert timeline.conjunct
    assert any(m.ignored_guards for m in timeline.moments), "the dropped guard was false somewhere on the way"


def test_counterexample_is_shortest() -> None:
    """Known by hand: submit, admit, allocate, open_step, prefill_last, abort, release_owned."""
    found = counterexample(SPEC, ("release_owned:not in flight",))
    assert found is not None
    events = [name for name, _ in found.trace]
    assert events == ["submit", "admit", "allocate", "open_step", "prefill_last", "abort", "release_owned"]


def test_trace_is_a_behaviour_of_the_specification_only_without_the_guard() -> None:
    label = "reap:not in flight"
    found = counterexample(SPEC, (label,))
    assert found is not None
    Replay(SPEC, found.instance, (label,)).timeline(found.trace, found.violated)
    with pytest.raises(ValueError, match="guard 'not in flight' is false"):
        Replay(SPEC, found.instance).timeline(found.trace, found.violated)


@pytest.mark.parametrize("only", ["requests wait first", "a finished request has output"])
def test_a_two_state_property_is_found_whatever_else_is_false_at_that_event(only: str) -> None:
    labels = ("finish:request DECODE", "finish:has output")
    found = search(Instance(1, 2, 1, 1, 1, 1), labels, only=only)
    assert (found.violated, len(found.trace)) == (only, 1)


def test_unknown_guard_is_an_error() -> None:
    with pytest.raises(ValueError, match="no guard is called reap:nonsense"):
        search(Instance(1, 2, 1, 1, 1, 1), dropped=("reap:nonsense",))


@pytest.mark.parametrize("name", list(SPEC.transitions))
def test_guards_are_numbered_alike_in_python_and_in_the_explorer(name: str) -> None:
    """With all other guards of a transition dropped, it may be taken at the start as often as its one guard is true."""
    instance, transition = Instance(2, 3, 2, 1, 1, 1), SPEC.transitions[name]
    interpreter = Interpreter(SPEC, {c: instance.constants[c] for c in SPEC.constants})
    bindings = list(tried(interpreter, name, instance))
    others = [t for t in SPEC.transitions if t != name]
    labels = [f"{name}:{g.name}" for g in transition.guards]
    for guard, label in zip(transition.guards, labels, strict=True):
        dropped = (*others, *[other for other in labels if other != label])
        found = search(instance, dropped, max_states=1, only="a copy that begins is at work", reduce=False, threads=1)
        true = [b for b in bindings if interpreter.evaluate(guard.condition, b, interpreter.start())]
        assert found.taken[name] == len(true), label


def tried(interpreter: Interpreter, name: str, instance: Instance) -> Iterator[dict[str, int]]:
    """The arguments of a transition that the explorer tries at the start."""
    constants = {**interpreter.constants, **instance.constants}
    wide, start = Interpreter(SPEC, constants), interpreter.start()
    chosen: list[dict[str, int]] = [{}]
    for p in SPEC.transitions[name].parameters:
        if p.type in instance.population:
            chosen = [{**c, p.name: i} for c in chosen for i in range(instance.population[p.type])]
        else:
            low, high = SPEC.ranges[name, p.name]
            chosen = [
                {**c, p.name: n}
                for c in chosen
                for n in range(wide.evaluate(low, c, start), wide.evaluate(high, c, start) + 1)
            ]
    yield from chosen
