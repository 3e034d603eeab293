"""What a study chooses when it turns a recording or a preset into a workload."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from ..errors import ConfigurationError

Choice = TypeVar("Choice", bound=Enum)


class TimeUnit(Enum):
    """What the numbers in a trace's time fields count. The value is its name on the command line."""

    AUTO = "auto"
    """Milliseconds from the start or since 1970, as the numbers show; refused where they do not."""
    MILLISECONDS = "ms"
    SECONDS = "s"


class BlockIds(Enum):
    """What the ids of a trace's prompt blocks stand for. The value is its name on the command line."""

    PREFIXES = "prefixes"
    """All tokens from the start of the prompt to the end of the block."""
    CONTENTS = "contents"
    """The tokens of the block alone, whatever is before it."""


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """Choices that hold for every kind of workload."""

    block_size: int
    """Tokens per KV block of the scheduler."""
    limit: int | None
    """Take only the first so many sessions (requests of an open-loop trace); None for all."""
    think_cap_ns: int
    """The longest time between two calls of a session, nanoseconds."""
    concurrency: int | None
    """Sessions alive at once; None for the default of the trace or preset."""
    skip_bad: bool = False
    """Leave out records that cannot be read, count them and say so, instead of refusing the trace."""
    time_unit: TimeUnit = TimeUnit.AUTO
    block_ids: BlockIds = BlockIds.PREFIXES
    trace_block_size: int | None = None
    """Tokens that one id of the trace stands for where the trace does not say; None for the format's usual size."""


def choice(kind: type[Choice], text: str, field: str) -> Choice:
    """The member of `kind` that is called `text`. Raises ConfigurationError naming `field` if there is none."""
    for member in kind:
        if member.value == text:
            return member
    raise ConfigurationError(f"{field} is {text!r}; use one of {', '.join(str(member.value) for member in kind)}")
