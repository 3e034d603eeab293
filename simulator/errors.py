"""Errors of the simulator. Every message names the field, the value and a fix."""


class SimulatorError(ValueError):
    """Base of every error that the simulator raises for bad input."""


class WorkloadError(SimulatorError):
    """A trace or a preset cannot be read or is inconsistent."""


class ConfigurationError(SimulatorError):
    """A model, GPU or scheduler setting cannot work."""


class SimulationStalled(RuntimeError):
    """Calls are left but nothing can happen any more: a defect of the scheduler or its driver, never of the input."""


class PolicyFailed(SimulatorError):
    """A policy raised, or answered with something that is no answer. The run stops: it would study another policy."""
