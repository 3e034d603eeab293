"""One study: a workload on a cluster, what happened and what it means. The input of every output."""

from dataclasses import dataclass

from ..hardware.deployment import Deployment
from ..recording.recorder import Recording
from ..workload.workload import Workload
from ..world.cluster import Cluster
from .metrics import CallTimes, Metrics
from .settings import StudySettings


@dataclass(frozen=True, slots=True)
class Study:
    """A finished simulation with all that a report shows. Holds no wall-clock time and no path of this machine."""

    workload: Workload
    recording: Recording
    times: CallTimes
    metrics: Metrics
    settings: StudySettings
    deployment: Deployment
    cluster: Cluster
    provenance: dict[str, str]
    """What ran: versions and hashes, and the command that runs it again."""

    @property
    def replicas(self) -> int:
        """Replicas of the cluster."""
        return self.cluster.replicas
