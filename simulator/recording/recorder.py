"""What happened in a simulation, as flat arrays: one row per call, and steps as runs of equal ones."""

from array import array
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .steps import StepRuns, as_columns

NEVER: Final = -1
"""Time of something that did not happen."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished simulation. Call columns are [calls] int64; times are nanoseconds, NEVER if it did not happen."""

    arrival_ns: NDArray[np.int64]
    admitted_ns: NDArray[np.int64]
    first_token_ns: NDArray[np.int64]
    finish_ns: NDArray[np.int64]
    replica: NDArray[np.int64]
    """Where the call ended; NEVER if it was refused before it was sent to one."""
    hit_tokens: NDArray[np.int64]
    """Prompt tokens found in the prefix cache at the first admission."""
    host_hit_tokens: NDArray[np.int64]
    """Of these, tokens that were copied back from the host."""
    output_tokens: NDArray[np.int64]
    retractions: NDArray[np.int64]
    restarts: NDArray[np.int64]
    """How often the call was sent again because its replica failed."""
    rejected: dict[int, str]
    """Why a call was rejected, by call index."""
    step_runs: StepRuns
    """What the devices did, by replica and in time."""
    num_blocks: int
    """KV blocks of each replica."""

    @property
    def steps(self) -> dict[str, NDArray[np.int64]]:
        """[steps] columns, see STEP_FIELDS, made anew at 104 bytes a step; `step_runs` has the same in less."""
        return self.step_runs.table()


@dataclass(slots=True)
class CallColumns:
    """Notes on calls while a simulation runs; each column is [calls]."""

    arrival_ns: "array[int]"
    admitted_ns: "array[int]"
    first_token_ns: "array[int]"
    finish_ns: "array[int]"
    replica: "array[int]"
    hit_tokens: "array[int]"
    host_hit_tokens: "array[int]"
    output_tokens: "array[int]"
    retractions: "array[int]"
    restarts: "array[int]"
    rejected: dict[int, str]

    @classmethod
    def of(cls, calls: int) -> "CallColumns":
        """Notes in which nothing has happened."""
        times = ("arrival_ns", "admitted_ns", "first_token_ns", "finish_ns", "replica")
        columns = [column.name for column in fields(cls) if column.name != "rejected"]
        made = {name: array("q", [NEVER if name in times else 0]) * calls for name in columns}
        return cls(**made, rejected={})

    def admitted(self, call: int, now: int, hit_tokens: int) -> None:
        """The call got a slot. Only the first time counts: after a retraction it comes again."""
        if self.admitted_ns[call] == NEVER:
            self.admitted_ns[call] = now
            self.hit_tokens[call] = hit_tokens

    def fetched(self, call: int, tokens: int) -> None:
        """Prompt tokens were copied back from the host; comes before `admitted`, and counts the first time only."""
        if self.admitted_ns[call] == NEVER:
            self.host_hit_tokens[call] = tokens

    def first_token(self, call: int, now: int) -> None:
        """The call's first token has landed. After a retraction or a restart it was seen before."""
        if self.first_token_ns[call] == NEVER:
            self.first_token_ns[call] = now

    def restarted(self, call: int) -> None:
        """The call's replica has failed. If its client has seen nothing yet, what counts is what comes now."""
        self.restarts[call] += 1
        if self.first_token_ns[call] == NEVER:
            self.admitted_ns[call] = NEVER
            self.hit_tokens[call] = self.host_hit_tokens[call] = 0

    def finished(self, call: int, now: int, output_tokens: int) -> None:
        """The call's last token has landed."""
        self.finish_ns[call] = now
        self.output_tokens[call] = output_tokens

    def freeze(self, steps: StepRuns, num_blocks: int) -> Recording:
        """The notes as numpy arrays, with the steps of all replicas."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        rejected = columns.pop("rejected")
        return Recording(
            **{name: as_columns(column) for name, column in columns.items()},
            rejected=dict(sorted(rejected.items())),
            step_runs=steps,
            num_blocks=num_blocks,
        )
