"""State diagrams (Mermaid) of the machines, from the moves of the transitions."""

from __future__ import annotations

from ..language.spec import Spec


def diagram(spec: Spec, machine: str) -> str:
    """The Mermaid state diagram of one machine: nodes are states, edges are transitions."""
    variable = spec.variables[machine]
    enum = spec.enums[variable.type]
    lines = ["stateDiagram-v2", f"    [*] --> {variable.init.args[1]}"]
    edges: dict[tuple[str, str], list[str]] = {}
    for transition in spec.transitions.values():
        for move in transition.moves:
            if move.machine is variable:
                for source in move.sources:
                    label = (
                        transition.name
                        if transition.actor == "scheduler"
                        else f"{transition.name} ({transition.actor})"
                    )
                    edges.setdefault((source, move.target), []).append(label)
    lines += [f"    {source} --> {target}: {', '.join(labels)}" for (source, target), labels in edges.items()]
    lines += [f"    note right of {value}: {enum.docs[value]}" for value in enum.values if enum.docs[value]]
    return "\n".join(lines) + "\n"


def diagrams(spec: Spec) -> dict[str, str]:
    """Machine name -> Mermaid text, for every machine."""
    return {v.name: diagram(spec, v.name) for v in spec.variables.values() if v.type in spec.enums}
