"""A discrete-event simulator of GPU serving, driven by the compiled scheduler that also serves."""

from .errors import ConfigurationError, SimulationStalled, SimulatorError, WorkloadError
from .study.setup import StudySettings, load_workload, run_study
from .study.study import Study

__all__ = [
    "ConfigurationError",
    "SimulationStalled",
    "SimulatorError",
    "Study",
    "StudySettings",
    "WorkloadError",
    "load_workload",
    "run_study",
]
