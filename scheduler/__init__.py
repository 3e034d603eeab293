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
    GUARDS,
    POLICIES,
    SPEC_HASH,
    STATE_ACCESS,
    TRANSITIONS,
    AskedWhileDeciding,
    BadRequest,
    BadResults,
    CopyBatch,
    CopyKind,
    CopyView,
    DuplicateRequest,
    EventKind,
    GuardRefused,
    InvariantViolated,
    Machine,
    PageView,
    Policy,
    RequestView,
    Scheduler,
    SchedulerConfig,
    SchedulerError,
    SpecMismatch,
    Stats,
    StepPlan,
    SubmitResult,
    TraceOverflow,
    UnknownCopy,
    UnknownRequest,
    UnknownStep,
)
from .generated.contract import CONTRACT_HASH

StateMachine = getattr(_core, "StateMachine", None)
"""The machine in states given as bytes; None in the checked build."""

__all__ = [
    "CHECKED",
    "CONTRACT_HASH",
    "GUARDS",
    "POLICIES",
    "SPEC_HASH",
    "STATE_ACCESS",
    "TRANSITIONS",
    "AskedWhileDeciding",
    "BadRequest",
    "BadResults",
    "CopyBatch",
    "CopyKind",
    "CopyView",
    "DuplicateRequest",
    "EventKind",
    "GuardRefused",
    "InvariantViolated",
    "Machine",
    "PageView",
    "Policy",
    "RequestView",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerError",
    "SpecMismatch",
    "StateMachine",
    "Stats",
    "StepPlan",
    "SubmitResult",
    "TraceOverflow",
    "UnknownCopy",
    "UnknownRequest",
    "UnknownStep",
]
