"""Declared bounds of integers. Within them no operation of the generated C++ can wrap (`tokenspeed verify binary`).

Bounds are inclusive. TOKENS limits what a driver may submit (`Scheduler::submit` accepts 2^30 prompt and 2^30 output
tokens); INDIVIDUALS is what 32-bit ids can name; TICKS is never reached: at a million steps a second it takes more
than 100,000 years.
"""

from ..language.expressions import TICK
from ..language.spec import Spec, Variable

TOKENS = 2**40
INDIVIDUALS = 2**31 - 1
TICKS = 2**62
KEYS = 2**46
"""Names of prefixes: the scheduler gives the low bits of a longer hash; a trace record has room for 48."""
PROPOSALS = (-(2**62), 2**62)
"""Integer parameters of any proposal, also of one that a guard refuses."""

CLOCKS = {"arrival", "newest_arrival"}
"""Integers that, like step numbers, are given out one after the other."""

NAMES = {"key", "before", "host_key", "host_before", "content", "host_content", "text"}
"""Variables that name a prefix."""

NAMING = ("match_shared", "match_cached", "match_tail", "publish", "keep_tail")
INPUTS = {("submit", "turn"): TICKS} | {(transition, "x"): KEYS for transition in NAMING}
"""Integer parameters that are no numbers of tokens."""


def is_clock(variable: Variable) -> bool:
    """Whether the variable holds a step number or an arrival number."""
    return variable.type == TICK or variable.name in CLOCKS


def counts_individuals(spec: Spec, variable: Variable) -> bool:
    """Whether the variable is a number of requests, blocks or steps: 32-bit ids cannot name more."""
    return variable.name in spec.counts and spec.counts[variable.name].weight is None


def bounds_of(spec: Spec, variable: Variable) -> tuple[int, int]:
    """Smallest and largest value of an integer variable."""
    if is_clock(variable):
        return 0, TICKS
    if counts_individuals(spec, variable):
        return 0, INDIVIDUALS
    if variable.name in NAMES:
        return 0, KEYS
    return 0, 2 * TOKENS if variable.name in spec.counts else TOKENS


def constant_bounds(spec: Spec, name: str) -> tuple[int, int]:
    """Smallest and largest value of a constant; the configuration holds them in 32 bits."""
    return spec.constants[name][1], INDIVIDUALS


def input_limit(transition: str, parameter: str) -> int:
    """Largest value of an integer parameter that a driver or planner may give."""
    return INPUTS.get((transition, parameter), TOKENS)
