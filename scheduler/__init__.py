"""The compiled scheduler: transitions generated from the specification, a planner, and the driver contract.

`TOKENSPEED_CHECKED=1` in the environment loads the checked build, which carries ghost state and recounts every
invariant of the specification after every transition (slow; build it with `make checked`).
"""

import os
import sys
from importlib import import_module

if os.environ.get("TOKENSPEED_CHECKED") == "1":
    sys.modules[f"{__name__}._core"] = import_module("._core_checked", __name__)

from . import _core
from ._core import (
    CHECKED,
    SPEC_HASH,
    STATE_ACCESS,
    TRANSITIONS,
    BadResults,
    DuplicateRequest,
    EventKind,
    GuardRefused,
    InvariantViolated,
    Machine,
    Scheduler,
    SchedulerConfig,
    SchedulerError,
    SpecMismatch,
    Stats,
    StepPlan,
    SubmitResult,
    TraceOverflow,
    UnknownRequest,
    UnknownStep,
)

StateMachine = getattr(_core, "StateMachine", None)
"""The machine in states given as bytes; None in the checked build."""

__all__ = [
    "CHECKED",
    "SPEC_HASH",
    "STATE_ACCESS",
    "TRANSITIONS",
    "BadResults",
    "DuplicateRequest",
    "EventKind",
    "GuardRefused",
    "InvariantViolated",
    "Machine",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerError",
    "SpecMismatch",
    "StateMachine",
    "Stats",
    "StepPlan",
    "SubmitResult",
    "TraceOverflow",
    "UnknownRequest",
    "UnknownStep",
]
