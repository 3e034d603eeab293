"""The order of a state's values where the explorer and the compiled scheduler exchange states: one byte for each.

Numbers and enums of the scheduler first, then its relations, then relations and numbers that only proofs know. Within
a variable the last index runs fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..language.expressions import BOOL
from ..language.spec import Spec, Variable


def state_order(spec: Spec) -> list[Variable]:
    """All variables in the order in which a state's bytes give them; `shared_order` is the first part of it."""
    variables = list(spec.variables.values())
    ghosts = [v for v in variables if v.ghost]
    relations, numbers = [v for v in ghosts if v.type == BOOL], [v for v in ghosts if v.type != BOOL]
    return [*shared_order(spec), *relations, *numbers]


def shared_order(spec: Spec) -> list[Variable]:
    """The variables that the scheduler has too."""
    concrete = [v for v in spec.variables.values() if not v.ghost]
    return [v for v in concrete if v.type != BOOL] + [v for v in concrete if v.type == BOOL]


def cells(variable: Variable, population: Mapping[str, int]) -> int:
    """How many bytes the variable takes."""
    return math.prod(population[s.name] for s in variable.sorts)
