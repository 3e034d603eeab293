"""A discrete-event simulator of GPU serving, driven by the compiled scheduler that also serves."""

from .errors import ConfigurationError, SimulationStalled, SimulatorError, WorkloadError
from .study.run import run_study
from .study.settings import StudySettings, load_workload
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
