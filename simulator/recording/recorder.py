"""What happened in a simulation, as flat arrays: one row per call and one row per step."""

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..workload.workload import Call

NEVER: Final = -1
"""Time of something that did not happen."""

STEP_FIELDS: Final = (
    "replica",
    "start_ns",
    "end_ns",
    "rows",
    "tokens",
    "decode_rows",
    "sampled",
    "context_tokens",
    "held_blocks",
    "cached_blocks",
    "running",
    "waiting",
)
"""Columns of the step table; the last four are levels right after the step was planned."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished simulation. Call columns are [calls] int64; times are nanoseconds, NEVER if it did not happen."""

    arrival_ns: NDArray[np.int64]
    admitted_ns: NDArray[np.int64]
    first_token_ns: NDArray[np.int64]
    finish_ns: NDArray[np.int64]
    replica: NDArray[np.int64]
    hit_tokens: NDArray[np.int64]
    """Prompt tokens found in the prefix cache at the first admission."""
    host_hit_tokens: NDArray[np.int64]
    """Of these, tokens that were copied back from the host."""
    output_tokens: NDArray[np.int64]
    retractions: NDArray[np.int64]
    rejected: dict[int, str]
    """Why the scheduler rejected a call, by call index."""
    steps: dict[str, NDArray[np.int64]]
    """[steps] each, views of one table, in order of planning on each replica; see STEP_FIELDS."""
    num_blocks: int
    """KV blocks of each replica."""


class Recorder:
    """Takes notes while a simulation runs. Columns are plain arrays: a note costs a fraction of a microsecond."""

    def __init__(self, calls: int) -> None:
        def column(value: int) -> "array[int]":
            return array("q", [value]) * calls

        self.arrival_ns = column(NEVER)
        self.admitted_ns = column(NEVER)
        self.first_token_ns = column(NEVER)
        self.finish_ns = column(NEVER)
        self.replica = column(NEVER)
        self.hit_tokens = column(0)
        self.host_hit_tokens = column(0)
        self.output_tokens = column(0)
        self.retractions = column(0)
        self.rejected: dict[int, str] = {}
        self.steps: array[int] = array("q")

    def arrived(self, call: Call, now: int, replica: int) -> None:
        """The client has sent the call to a replica."""
        self.arrival_ns[call.index] = now
        self.replica[call.index] = replica

    def admitted(self, call: int, now: int, hit_tokens: int) -> None:
        """The call got a slot. Only the first time counts: after a retraction it comes again."""
        if self.admitted_ns[call] == NEVER:
            self.admitted_ns[call] = now
            self.hit_tokens[call] = hit_tokens

    def fetched(self, call: int, tokens: int) -> None:
        """Prompt tokens were copied back from the host; comes before `admitted`, and counts the first time only."""
        if self.admitted_ns[call] == NEVER:
            self.host_hit_tokens[call] = tokens

    def finished(self, call: int, now: int, output_tokens: int) -> None:
        """The call's last token has landed."""
        self.finish_ns[call] = now
        self.output_tokens[call] = output_tokens

    def freeze(self, num_blocks: int) -> Recording:
        """The notes as numpy arrays."""

        def frozen(column: "array[int]") -> NDArray[np.int64]:
            return np.frombuffer(column, dtype=np.int64) if column else np.empty(0, dtype=np.int64)

        table = frozen(self.steps).reshape(-1, len(STEP_FIELDS))
        return Recording(
            arrival_ns=frozen(self.arrival_ns),
            admitted_ns=frozen(self.admitted_ns),
            first_token_ns=frozen(self.first_token_ns),
            finish_ns=frozen(self.finish_ns),
            replica=frozen(self.replica),
            hit_tokens=frozen(self.hit_tokens),
            host_hit_tokens=frozen(self.host_hit_tokens),
            output_tokens=frozen(self.output_tokens),
            retractions=frozen(self.retractions),
            rejected=self.rejected,
            steps={name: table[:, number] for number, name in enumerate(STEP_FIELDS)},
            num_blocks=num_blocks,
        )
