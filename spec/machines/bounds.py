"""Declared bounds of integers. Within them no operation of the generated C++ can wrap (`tokenspeed verify binary`).

Bounds are inclusive. A variable or parameter says of which kind its integers are; without a kind they are numbers of
tokens, of which `Scheduler::submit` accepts 2^30 prompt and 2^30 output tokens of a request. INDIVIDUALS is what 32-bit
ids can name. TICKS is never reached: at a million steps a second it takes more than 100,000 years.
"""

from ..language.expressions import TICK
from ..language.spec import Integers, Parameter, Spec, Variable

INDIVIDUALS = 2**31 - 1
TICKS = 2**62
TOKENS = Integers("Int", 2**40)
NAME = Integers("Name", 2**46)
"""Names of prefixes: the scheduler gives the low bits of a longer hash; a trace record has room for 48."""
ARRIVAL = Integers("Arrival", TICKS, clock=True, ordered=True)
PROPOSALS = (-(2**62), 2**62)
"""Integer parameters of any proposal, also of one that a guard refuses."""


def is_clock(variable: Variable) -> bool:
    """Whether the variable holds a step number or an arrival number."""
    return variable.type == TICK or (variable.kind is not None and variable.kind.clock)


def counts_individuals(spec: Spec, variable: Variable) -> bool:
    """Whether the variable is a number of requests, blocks or steps: 32-bit ids cannot name more."""
    return variable.name in spec.counts and spec.counts[variable.name].weight is None


def bounds_of(spec: Spec, variable: Variable) -> tuple[int, int]:
    """Smallest and largest value of an integer variable."""
    if is_clock(variable):
        return 0, TICKS
    if counts_individuals(spec, variable):
        return 0, INDIVIDUALS
    most = (variable.kind or TOKENS).most
    return 0, 2 * most if variable.name in spec.counts else most


def constant_bounds(spec: Spec, name: str) -> tuple[int, int]:
    """Smallest and largest value of a constant; the configuration holds them in 32 bits."""
    return spec.constants[name][1], INDIVIDUALS


def input_limit(parameter: Parameter) -> int:
    """Largest value of an integer parameter that a driver or planner may give."""
    return (parameter.kind or TOKENS).most
