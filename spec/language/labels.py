"""Names of guards and effects, by which variants, explorers, mutants and reports speak of them."""

from __future__ import annotations

from .spec import Effect, Spec, Transition


def guard_labels(spec: Spec) -> list[str]:
    """All guards as `transition:guard`, in the order in which generated code numbers them (from 1; 0 is no guard)."""
    return [f"{t.name}:{g.name}" for t in spec.transitions.values() for g in t.guards]


def effect_label(transition: Transition, effect: Effect) -> str:
    """The name under which the explorer can leave an effect out: evict:effect block_state."""
    return f"{transition.name}:effect {effect.variable.name}"


def effect_labels(spec: Spec) -> list[str]:
    """The label of every effect, without repetition: those of a transition on the same variable go together."""
    return list(dict.fromkeys(effect_label(t, e) for t in spec.transitions.values() for e in t.effects))
