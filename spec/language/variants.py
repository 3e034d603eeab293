"""Names of guards and effects, and the specification with some of them left out, or with some transitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from .expressions import lift
from .spec import Effect, Guard, Spec, Transition


def guard_labels(spec: Spec) -> list[str]:
    """All guards as `transition:guard`, in the order in which generated code numbers them (from 1; 0 is no guard)."""
    return [f"{t.name}:{g.name}" for t in spec.transitions.values() for g in t.guards]


def effect_label(transition: Transition, effect: Effect) -> str:
    """The name under which the explorer can leave an effect out: evict:effect block_state."""
    return f"{transition.name}:effect {effect.variable.name}"


def effect_labels(spec: Spec) -> list[str]:
    """The label of every effect, without repetition: those of a transition on the same variable go together."""
    return list(dict.fromkeys(effect_label(t, e) for t in spec.transitions.values() for e in t.effects))


def check_labels(spec: Spec, labels: Collection[str]) -> None:
    """Raises ValueError for a label that is none of `transition:guard`, `transition:effect variable`, `transition`."""
    unknown = sorted(set(labels) - {*guard_labels(spec), *effect_labels(spec), *spec.transitions})
    if unknown:
        raise ValueError(f"no guard, effect or transition is called {', '.join(unknown)}")


def without(transition: Transition, labels: Collection[str], guards: bool = True) -> Transition:
    """The transition without the effects, and (if `guards`) without the guards, that the labels name."""
    kept_guards = [g for g in transition.guards if not guards or f"{transition.name}:{g.name}" not in labels]
    kept_effects = [e for e in transition.effects if effect_label(transition, e) not in labels]
    return dataclasses.replace(transition, guards=kept_guards, effects=kept_effects)


@contextmanager
def variant(spec: Spec, labels: Collection[str]) -> Iterator[Spec]:
    """The specification itself, with the guards, effects and transitions left out until the block ends."""
    check_labels(spec, labels)
    original = dict(spec.transitions)
    for name, t in original.items():
        spec.transitions[name] = without(t, labels)
        if name in labels:
            spec.transitions[name].guards.insert(0, Guard("switched off", lift(False)))
    try:
        yield spec
    finally:
        spec.transitions.update(original)


__all__ = ["check_labels", "effect_label", "effect_labels", "guard_labels", "variant", "without"]
