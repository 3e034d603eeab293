"""The specification with some guards, effects and transitions left out, named as the explorer names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from ..language.expressions import lift
from ..language.labels import effect_label, effect_labels, guard_labels
from ..language.spec import Guard, Spec, Transition


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


__all__ = ["check_labels", "variant", "without"]
