"""The compiled scheduler: transitions generated from the specification, a planner, and the driver contract.

`TOKENSPEED_CHECKED=1` in the environment loads the checked build, which carries ghost state and recounts every invariant of
the specification after every transition (slow; build it with `make checked`).
"""

import os

if os.environ.get("TOKENSPEED_CHECKED") == "1":
    from ._core_checked import *  # type: ignore[import-not-found,unused-ignore] # noqa: F403
    from ._core_checked import CHECKED, SPEC_HASH, TRANSITIONS
else:
    from ._core import *  # noqa: F403
    from ._core import CHECKED, SPEC_HASH, TRANSITIONS

__all__ = [
    "CHECKED",
    "SPEC_HASH",
    "TRANSITIONS",
    "BadResults",
    "DuplicateRequest",
    "EventKind",
    "GuardRefused",
    "InvariantViolated",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerError",
    "SpecMismatch",
    "Stats",
    "StepPlan",
    "SubmitResult",
    "UnknownRequest",
    "UnknownStep",
]
