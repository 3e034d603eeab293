"""What a study chooses when it turns a recording or a preset into a workload."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """Choices that hold for every kind of workload."""

    block_size: int
    """Tokens per KV block of the scheduler."""
    limit: int | None
    """Take only the first so many sessions (requests of an open-loop trace); None for all."""
    think_cap_ns: int
    """Closed loop: the longest time between two calls of a session, nanoseconds."""
    concurrency: int | None
    """Closed loop: sessions alive at once; None for the default of the trace or preset."""
