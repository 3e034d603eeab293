"""The internal form of a workload: sessions of calls to a model. Every trace and the generator are turned into it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError
from ..timebase import NS_PER_S
from .chain_ids import check_chains

LATEST_START_NS: Final = 10**18
"""Latest start of a session (31 years), so that times stay far from the limits of 64 bits."""


class Trigger(Enum):
    """What about an earlier call starts the clock of a later one."""

    DISPATCH = "dispatch"
    COMPLETION = "completion"


@dataclass(frozen=True, slots=True)
class Dependency:
    """A call may start `delay_ns` after the trigger of the call with index `call`."""

    call: int
    delay_ns: int
    trigger: Trigger = Trigger.COMPLETION


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the model."""

    index: int
    """Position in `Workload.calls`; also the request id given to the scheduler."""
    session: int
    """Index of the session it belongs to."""
    turn: int
    """0 for the first call of its agent, then 1, 2, ..."""
    prompt_tokens: int
    output_tokens: int
    page_hashes: NDArray[np.uint64]
    """[<= (prompt_tokens + output_tokens) // block_size] chain hashes of full blocks: entry i names the tokens of
    blocks 0..i together. Entries past the prompt name blocks that the output fills; missing ones are never shared."""
    after: tuple[Dependency, ...] = ()
    """The call starts when all of these allow it. Empty: it starts with its session."""


@dataclass(frozen=True, slots=True)
class Session:
    """Calls that belong together: one user's conversation with its sub-agents, or one independent request."""

    name: str
    start_ns: int
    """When the first call arrives. With `Workload.concurrency`, the earliest time: it also waits for a free place."""
    calls: range
    """Indices into `Workload.calls`."""


@dataclass(frozen=True)
class Workload:
    """Sessions in the order in which they start. Raises WorkloadError if calls and sessions do not fit together."""

    name: str
    block_size: int
    sessions: Sequence[Session]
    calls: Sequence[Call]
    concurrency: int | None
    """Sessions alive at once; None if each starts at its own time, whatever the others do (open loop)."""
    assumptions: dict[str, str] = field(default_factory=dict)
    """What the reader or generator decided that a report must tell, by title."""
    warnings: tuple[str, ...] = ()
    """What may surprise: records left out, fields without use, choices that were made for lack of data."""
    source: dict[str, str | int] = field(default_factory=dict)
    """What to hold this workload against to find it again: a preset and seed, or a file's name, size and SHA-256."""
    chains_checked: bool = False
    """Whether whoever made the calls has checked that their page hashes are chain hashes."""

    def __post_init__(self) -> None:
        if not self.chains_checked:
            check_chains([call.page_hashes for call in self.calls], self.name)
        if not self.calls:
            raise WorkloadError(f"workload {self.name!r} has no calls; give a trace with at least one request")
        if self.concurrency is not None and self.concurrency < 1:
            raise WorkloadError(f"concurrency is {self.concurrency}; it must be at least 1")
        expected = 0
        for number, session in enumerate(self.sessions):
            if (
                session.calls.start != expected
                or len(session.calls) == 0
                or not 0 <= session.start_ns <= LATEST_START_NS
            ):
                raise WorkloadError(
                    f"session {session.name!r} has calls {session.calls} and start {session.start_ns} ns"
                )
            expected = session.calls.stop
            for index in session.calls:
                self._check_call(self.calls[index], index, number, session.calls.start)
        if expected != len(self.calls):
            raise WorkloadError(f"workload {self.name!r} has {len(self.calls)} calls but its sessions hold {expected}")

    def _check_call(self, call: Call, index: int, session: int, first: int) -> None:
        where = f"call {index} of session {self.sessions[session].name!r}"
        if call.index != index or call.session != session:
            raise WorkloadError(f"{where} says it is call {call.index} of session {call.session}")
        if call.prompt_tokens < 1 or call.output_tokens < 1:
            raise WorkloadError(
                f"{where} has prompt_tokens {call.prompt_tokens} and output_tokens {call.output_tokens}; "
                "both must be at least 1"
            )
        blocks = (call.prompt_tokens + call.output_tokens) // self.block_size
        if len(call.page_hashes) > blocks:
            raise WorkloadError(f"{where} has {len(call.page_hashes)} page hashes but only {blocks} full blocks")
        for dependency in call.after:
            if not first <= dependency.call < index or dependency.delay_ns < 0:
                raise WorkloadError(f"{where} waits for call {dependency.call} with delay {dependency.delay_ns} ns")

    @property
    def closed_loop(self) -> bool:
        """Whether sessions wait for one another: a limited number is alive at once."""
        return self.concurrency is not None

    @property
    def has_turns(self) -> bool:
        """Whether some session has several calls."""
        return len(self.calls) > len(self.sessions)


def closed_loop_sessions(calls: Sequence[tuple[str, range]], concurrency: int, stagger_ns: int) -> list[Session]:
    """Sessions from (name, calls): the first `concurrency` start `stagger_ns` apart, others wait for a free place."""
    return [
        Session(name, min(number, concurrency - 1) * stagger_ns, indices)
        for number, (name, indices) in enumerate(calls)
    ]


def closed_loop_in_words(concurrency: int, stagger_ns: int) -> str:
    """When sessions made by `closed_loop_sessions` start, for a report."""
    return f"{concurrency}; the first ones start {stagger_ns / NS_PER_S:g} s apart, others as places come free"
