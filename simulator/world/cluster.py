"""What a workload runs on: equal replicas behind a router."""

from dataclasses import dataclass

from ...scheduler import SchedulerConfig
from ..cost.protocol import StepCost
from ..cost.roofline import HOST_STEP_S, PrefillFigures
from ..errors import ConfigurationError
from ..policies import PolicyChoice, check_policy
from ..routing import RouterChoice, make_router
from ..timebase import seconds_to_ns
from .dispatcher import Outage

PREFILL = PrefillFigures(tokens_per_s=2e4, doubling_tokens=0)
"""What a cluster assumes if it is not told."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal replicas behind a router. Raises ConfigurationError naming the setting that cannot work."""

    replicas: int
    cost: StepCost
    num_blocks: int
    """KV blocks of each replica."""
    max_running: int
    max_step_tokens: int
    overlap_depth: int
    host_step_ns: int = seconds_to_ns(HOST_STEP_S)
    num_host_blocks: int = 0
    """Host pages of each replica; 0: no host tier."""
    host_copy_tokens_per_s: float = 1e6
    """KV that crosses the link between device and host in one direction."""
    prefill: PrefillFigures = PREFILL
    """What the scheduler weighs copies against."""
    policy: PolicyChoice = "default"
    """Each replica of each run gets one of its own."""
    router: RouterChoice = "session"
    """Each run gets one of its own."""
    max_context: int | None = None
    """Longest prompt and output together, tokens; longer calls are rejected. None: as the KV pool allows."""
    outages: tuple[Outage, ...] = ()

    def __post_init__(self) -> None:
        check_policy(self.policy)
        make_router(self.router)
        if self.replicas < 1:
            raise ConfigurationError(f"replicas is {self.replicas}; it must be at least 1")
        for outage in self.outages:
            if not 0 <= outage.replica < self.replicas or not 0 <= outage.start_ns < outage.end_ns:
                raise ConfigurationError(
                    f"outage of replica {outage.replica} from {outage.start_ns} to {outage.end_ns} ns: the replica "
                    f"must be one of 0 to {self.replicas - 1} and the end after the start"
                )

    def scheduler_config(self, block_size: int, record_trace: bool = False) -> SchedulerConfig:
        """The scheduler's view."""
        try:
            return SchedulerConfig(
                num_blocks=self.num_blocks,
                block_size=block_size,
                max_running=self.max_running,
                max_step_tokens=self.max_step_tokens,
                overlap_depth=self.overlap_depth,
                num_host_blocks=self.num_host_blocks,
                host_copy_tokens_per_s=self.host_copy_tokens_per_s,
                prefill_tokens_per_s=self.prefill.tokens_per_s,
                prefill_doubling_tokens=self.prefill.doubling_tokens,
                kv_events=make_router(self.router).needs_kv_events,
                record_trace=record_trace,
            )
        except ValueError as error:
            raise ConfigurationError(f"the scheduler cannot work with these settings: {error}") from error
