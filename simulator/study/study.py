"""One study: a workload on a cluster, what happened and what it means. The input of every output."""

from dataclasses import dataclass

from ..recording.recorder import Recording
from ..workload.workload import Workload
from .metrics import CallTimes, Metrics


@dataclass(frozen=True, slots=True)
class Study:
    """A finished simulation with all that a report shows. Holds no wall-clock time and no path of this machine."""

    workload: Workload
    recording: Recording
    times: CallTimes
    metrics: Metrics
    replicas: int
    parameters: dict[str, str]
    """Every setting, by title, as text."""
    scheduler: dict[str, str]
    """Which scheduler ran: the hash of its specification."""
