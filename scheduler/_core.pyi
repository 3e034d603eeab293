"""Typed stubs of the compiled scheduler: the driver contract that simulator and engine share.

One `Scheduler` owns one replica's KV blocks. It has no clock, thread or device: events go in (`submit`, `abort`,
`land`)
and plans come out (`plan`). All arrays of a `StepPlan` are numpy views of the scheduler's own buffers: read them
until the
step lands, never write to them.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SPEC_HASH: Final[str]
"""SHA-256 (hex) of the canonical specification that this binary was generated from."""

SOURCE_HASH: Final[str]
"""SHA-256 (hex) of the generated C++ that this binary was compiled from; `tokenspeed verify --binary` compares it."""

CHECKED: Final[bool]
"""True in the checked build, which carries ghost state and recounts every invariant after every transition."""

STATE_ACCESS: Final[object | None]
"""A capsule for `tokenspeed verify --lockstep`, which puts a machine into any state; None in the checked build."""

TRANSITIONS: Final[tuple[str, ...]]
"""Transition names in the order of their numbers in `Scheduler.drain_trace`."""

class SchedulerError(RuntimeError):
    """Base of every error that the scheduler raises. The scheduler's state is unchanged when one is raised.

    Arguments of a wrong Python type (a request id that is no integer, say) raise TypeError, as everywhere in Python.
    """

class UnknownRequest(SchedulerError):
    """The request id is not live: never submitted, or already finished or aborted."""

class DuplicateRequest(SchedulerError):
    """The request id is already live."""

class BadRequest(SchedulerError, ValueError):
    """The request makes no sense: tokens that are not one dimension of integers from 0 to 2^31 - 1, or a length that is
    not 1 to 2^30."""

class UnknownStep(SchedulerError):
    """The step number was never planned, or has already landed, or is not the oldest step in flight."""

class BadResults(SchedulerError):
    """The results do not fit the step: a wrong length, dtype or dimension, or a token that is not 0 to 2^31 - 1."""

class SpecMismatch(SchedulerError):
    """The driver was built for another specification."""

class GuardRefused(SchedulerError):
    """A policy proposed a transition whose guard is false (a defect of the policy; no state was changed by that
    transition)."""

class InvariantViolated(SchedulerError):
    """Checked build only: an invariant of the specification is false after a transition."""

class TraceOverflow(SchedulerError):
    """More was recorded between two calls of `drain_trace` than the trace buffer holds; the rest is lost."""

class SchedulerConfig:
    """Capacities and limits of one replica. Raises ValueError naming the field if a value cannot work."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int = 64,
        max_running: int = 256,
        max_step_tokens: int = 8192,
        overlap_depth: int = 1,
        prefix_cache: bool = True,
        record_trace: bool = False,
        trace_capacity: int = 262144,
    ) -> None: ...
    @property
    def num_blocks(self) -> int:
        """KV blocks in the pool."""
    @property
    def block_size(self) -> int:
        """Tokens per KV block."""
    @property
    def max_running(self) -> int:
        """Rows of the runner's block table: how many requests may hold a slot at once."""
    @property
    def max_step_tokens(self) -> int:
        """Token budget of one step (decode tokens first by age, the rest is chunked prefill); at least
        `max_running`."""
    @property
    def overlap_depth(self) -> int:
        """A step may be planned while this many are in flight."""
    @property
    def prefix_cache(self) -> bool:
        """Whether full blocks are published for reuse."""
    @property
    def record_trace(self) -> bool:
        """Whether every transition is logged for `drain_trace` or `drain_trace_records`."""
    @property
    def trace_capacity(self) -> int:
        """Records of 16 bytes in the trace buffer, at least 2; allocated only with `record_trace`."""

class SubmitResult:
    """Answer to `submit`: truthy if the request was accepted."""

    @property
    def accepted(self) -> bool: ...
    @property
    def reason(self) -> str:
        """Why it was rejected, naming the value and the limit; empty if accepted."""
    def __bool__(self) -> bool: ...

class EventKind:
    """Kinds of `Scheduler.events`; the third column (value) is given here."""

    ADMITTED: Final[int]
    """Got a slot; value = prompt tokens found in the prefix cache."""
    FIRST_TOKEN: Final[int]
    """Its first output token has landed; value = 1."""
    FINISHED: Final[int]
    """Reached max_new_tokens or a stop; value = output tokens in all."""
    ABORTED: Final[int]
    """Aborted by the driver; value = output tokens so far."""
    RETRACTED: Final[int]
    """Preempted for memory; it will be recomputed; value = tokens dropped."""

class Stats:
    """A snapshot of counters and levels. Levels are now; counters are since the start."""

    @property
    def num_blocks(self) -> int: ...
    @property
    def free_blocks(self) -> int: ...
    @property
    def cached_blocks(self) -> int:
        """Blocks that nobody holds but whose prefix can still be matched (evicted on demand)."""
    @property
    def held_blocks(self) -> int:
        """Blocks held by requests or waiting in limbo for a step in flight."""
    @property
    def waiting(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def steps_in_flight(self) -> int: ...
    @property
    def live_requests(self) -> int:
        """Requests whose record is not recycled yet; 0 when everything has drained."""
    @property
    def steps(self) -> int: ...
    @property
    def scheduled_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def submitted(self) -> int: ...
    @property
    def finished(self) -> int: ...
    @property
    def aborted(self) -> int: ...
    @property
    def retractions(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def prefix_query_tokens(self) -> int:
        """Prompt tokens of admitted requests (counted at each admission)."""
    @property
    def prefix_hit_tokens(self) -> int:
        """Of these, tokens that were found in the prefix cache."""

class StepPlan:
    """One step for the device: rows of requests, each with a run of consecutive tokens (decode: one; prefill: a
    chunk)."""

    @property
    def step(self) -> int:
        """Number of the step, 1, 2, 3, ...; give it back to `land`."""
    @property
    def rows(self) -> int: ...
    @property
    def tokens(self) -> int:
        """Tokens over all rows."""
    @property
    def decode_rows(self) -> int: ...
    @property
    def sampling_rows(self) -> int:
        """Rows that end in a sampled token: `land` expects this many results, in row order."""
    @property
    def context_tokens(self) -> int:
        """Sum over rows of start + num_tokens: the KV tokens that attention reads."""
    @property
    def attention_pairs(self) -> int:
        """Sum over rows of visible (query, key) pairs under a causal mask."""
    @property
    def request_ids(self) -> NDArray[np.int64]:
        """[rows]"""
    @property
    def slots(self) -> NDArray[np.int32]:
        """[rows] row of the runner's block table, 0 <= slot < max_running."""
    @property
    def start(self) -> NDArray[np.int32]:
        """[rows] position of the row's first token = tokens already in the KV cache when the step runs."""
    @property
    def num_tokens(self) -> NDArray[np.int32]:
        """[rows] tokens in the row, at least 1."""
    @property
    def samples(self) -> NDArray[np.bool_]:
        """[rows] whether the row's last token is followed by a sampled one."""
    @property
    def input_ids(self) -> NDArray[np.int32]:
        """[tokens] token ids in row order; -1 = the token that the previous step in flight samples for this slot.
        Empty if a request of the step was submitted by hashes."""
    @property
    def positions(self) -> NDArray[np.int32]:
        """[tokens] position of each token in its sequence. Empty like `input_ids`."""
    @property
    def table_slots(self) -> NDArray[np.int32]:
        """[deltas] block-table deltas to apply before the step: table[table_slots, table_index] = table_blocks."""
    @property
    def table_index(self) -> NDArray[np.int32]:
        """[deltas]"""
    @property
    def table_blocks(self) -> NDArray[np.int32]:
        """[deltas]"""

class Scheduler:
    """The scheduler of one replica. Not thread-safe: one thread drives it."""

    def __init__(self, config: SchedulerConfig, spec_hash: str | None = None) -> None:
        """`spec_hash`: the specification that the driver is written for (`CONTRACT_HASH` for one that is kept with this
        package). Raises SpecMismatch if it is given and is not `SPEC_HASH`, the one that the binary is generated from.
        """
    @property
    def config(self) -> SchedulerConfig: ...
    @property
    def limits(self) -> dict[str, int]:
        """The specification's constants in lower case, and the numbers of records (`step_records`, ...)."""

    def submit(
        self, request_id: int, tokens: NDArray[np.integer[Any]] | Sequence[int], max_new_tokens: int
    ) -> SubmitResult:
        """Queue a request. `tokens`: [prompt tokens >= 1], non-negative ids (int32 is read in place, other integers
        and lists are converted); `max_new_tokens` >= 1.

        Rejected if prompt + max_new_tokens can never fit the pool. Raises DuplicateRequest, BadRequest.
        """
    def submit_hashed(
        self,
        request_id: int,
        prompt_tokens: int,
        page_hashes: NDArray[np.integer[Any]] | Sequence[int],
        max_new_tokens: int,
    ) -> SubmitResult:
        """Queue a request known only by the chain hashes of its full blocks, as traces give them.

        `page_hashes`: [<= (prompt_tokens + max_new_tokens) // block_size]; entry i names the content of blocks 0..i
        together.
        Entries beyond the prompt name blocks that the output will fill; blocks without a hash are never shared.
        Rejects and raises as `submit`.
        """
    def abort(self, request_id: int) -> None:
        """End a request at any moment. Its blocks come back now, or when the last step that reads them has landed."""
    def plan(self) -> StepPlan | None:
        """The next step, or None until an event changes something (or `overlap_depth` + 1 steps are in flight)."""
    def land(
        self,
        step: int,
        tokens: NDArray[np.integer[Any]] | Sequence[int],
        stop: NDArray[np.bool_] | Sequence[bool] | None = None,
    ) -> None:
        """The device has finished `step`, the oldest in flight. `tokens`: [sampling_rows] sampled ids, in row order;
        `stop`: [sampling_rows] True where that token ends its request (EOS, stop string).

        All of it is applied, or a typed error is raised and nothing has changed. Results of requests that were
        aborted meanwhile are ignored.
        """
    def events(self) -> list[tuple[int, int, int]]:
        """(kind, request_id, value) since the last call, oldest first; see `EventKind`."""
    def stats(self) -> Stats: ...
    def transition_counts(self) -> dict[str, int]:
        """How often each transition of the specification was taken."""
    def drain_trace(self) -> NDArray[np.int64]:
        """[n, 6]: transition number, number of arguments, up to 4 arguments (request, block, step indices or integers).

        The transitions taken since the last call, in order; empty unless `record_trace`. Raises TraceOverflow if some
        of them are lost.
        """
    def drain_trace_records(self) -> bytes:
        """The same as the records of a trace file (16 bytes each, docs/trace-format.md); a record says what is lost."""
    def trace_header(self) -> dict[str, Any]:
        """What a trace file says first: "spec" (SHA-256) and "limits" (as the property of that name)."""
    def trace_footer(self) -> dict[str, Any]:
        """What it says last: "events" and "lost" (events since the start), "state" (variable: digest of its values
        now)."""
    def snapshot(self) -> dict[str, dict[tuple[int, ...], int]]:
        """Concrete variables of the specification with their values (those that differ from the initial value),
        for tests."""
    def check(self) -> None:
        """Recount block states, reference counts and tables from scratch.

        Raises InvariantViolated with the difference.
        """

class Machine:
    """The generated state machine alone, without a planner: what may be proposed is tried here (tests and replays)."""

    def __init__(
        self,
        *,
        page: int,
        blocks: int,
        steps: int,
        hosts: int = 0,
        copies: int = 0,
        width: int = 1,
        window: int = ...,
    ) -> None:
        """Tokens per block, blocks in the pool, step records, host pages, copy records, most output tokens of a row,
        tokens that attention looks back; no request records yet. Raises ValueError for a size that makes no sense.
        """

    @property
    def limits(self) -> dict[str, int]:
        """The specification's constants in lower case, and the numbers of records (`step_records`, ...)."""

    def add_request(self) -> int:
        """One more request record; returns its index."""

    def apply(self, transition: int, arguments: list[int]) -> str:
        """Propose a transition by its number in `TRANSITIONS`.

        Returns "" if it was taken; else the guard that refused it, as `transition:guard`, and nothing has changed. The
        release build does not check guards over ghost variables.
        """

    def snapshot(self) -> dict[str, dict[tuple[int, ...], int]]:
        """As `Scheduler.snapshot`."""

class StateMachine:
    """The generated state machine in states that are given as bytes (`tokenspeed verify --lockstep --through-python`).

    Not in the checked build. A state has one byte for each value that the scheduler keeps, in the order of
    `spec.layout.shared_order`.
    """

    def __init__(self, constants: list[int], population: list[int]) -> None:
        """In the order of the specification. Raises ValueError for a wrong number of them, or one beyond 1 to 99."""

    def answer(self, states: bytes, counts: bytes, proposals: bytes) -> tuple[bytes, bytes]:
        """Make proposals in many states: `counts` (4 bytes each) says how many of them belong to each state.

        A proposal has 8 bytes: transition number, 4 arguments (signed), 3 unused. Returns the answers (2 bytes each:
        number of the first false guard from 1, or 0; 65535 if something else changed than may) and the next states of
        what was accepted. Raises ValueError if the parts do not fit together.
        """
