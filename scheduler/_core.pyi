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
"""SHA-256 (hex) of the generated C++ that this binary was compiled from; `tokenspeed verify binary` compares it."""

CHECKED: Final[bool]
"""True in the checked build, which carries ghost state and recounts every invariant after every transition."""

STATE_ACCESS: Final[object | None]
"""A capsule for `tokenspeed verify lockstep`, which puts a machine into any state; None in the checked build."""

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

class AskedWhileDeciding(SchedulerError):
    """A policy called back into the scheduler that was asking it; policies only look at what they are given."""

class UnknownStep(SchedulerError):
    """The step number was never planned, or has already landed, or is not the oldest step in flight."""

class UnknownCopy(SchedulerError):
    """The copy id was never given out, is already done, or is given twice in one call."""

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
        num_host_blocks: int = 0,
        host_copy_tokens_per_s: float = 1e6,
        prefill_tokens_per_s: float = 2e4,
        prefill_doubling_tokens: float = 0,
        max_retractions: int = 3,
        max_draft_tokens: int = 0,
        kv_events: bool = False,
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
    def num_host_blocks(self) -> int:
        """Pages of the host tier, each for one KV block; 0: there is none."""
    @property
    def host_copy_tokens_per_s(self) -> float:
        """Tokens of KV that cross the link between device and host each second, in one direction."""
    @property
    def prefill_tokens_per_s(self) -> float:
        """Tokens of prompts that the device computes each second, at the start of a text."""
    @property
    def prefill_doubling_tokens(self) -> float:
        """Context at which a prompt token costs twice as much as at the start of a text; 0: context costs nothing."""
    @property
    def max_retractions(self) -> int:
        """How often one request may be retracted; then it is admitted only when nobody will have to do it again."""
    @property
    def max_draft_tokens(self) -> int:
        """Most tokens that `Scheduler.offer_drafts` takes for one request, up to 255."""
    @property
    def kv_events(self) -> bool:
        """Whether `Scheduler.events` tells which pages are stored and removed."""
    def recompute_s(self, start: int, tokens: int) -> float:
        """Seconds that the device takes to compute `tokens` tokens, the first of them at position `start`."""
    def copy_s(self, tokens: int) -> float:
        """Seconds until `tokens` tokens have crossed the link to the host or back."""
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

GUARDS: Final[tuple[str, ...]]
"""Names of the specification's guards; EventKind.FAILED gives a number of one."""

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
    """Preempted for memory; what is not in the cache any more will be recomputed; value = tokens given up."""
    FETCHED: Final[int]
    """Comes before ADMITTED; value = prompt tokens that were copied back from the host for it."""
    FAILED: Final[int]
    """The planner proposed for the request what the guard of this number (`GUARDS`) forbids: a defect of the scheduler.
    Nothing forbidden has happened; the request has ended, and the others go on."""
    KV_STORED: Final[int]
    """With `kv_events`: a page can be found on the device. The second column is its number in its text, value the low
    64 bits (signed) of the hash of the prefix that it ends; of requests submitted by hashes, that hash itself."""
    KV_REMOVED: Final[int]
    """As KV_STORED: the page is no longer on the device."""
    HOST_STORED: Final[int]
    """As KV_STORED, on the host."""
    HOST_REMOVED: Final[int]
    """As KV_REMOVED, on the host."""

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
        """Of these, tokens that were found in the prefix cache, those copied back from the host included."""
    @property
    def host_hit_tokens(self) -> int:
        """Of these, tokens that were copied back from the host."""
    @property
    def num_host_blocks(self) -> int: ...
    @property
    def host_used_blocks(self) -> int: ...
    @property
    def copies_in_flight(self) -> int: ...
    @property
    def spills(self) -> int:
        """Copies to the host that have begun."""
    @property
    def fetches(self) -> int:
        """Copies back that have begun."""
    @property
    def host_evictions(self) -> int:
        """Host pages dropped to make room for others."""
    @property
    def tails_kept(self) -> int:
        """Partial pages that retracted requests left in the cache."""
    @property
    def tails_matched(self) -> int:
        """Of these, pages that their requests took over again."""
    @property
    def draft_tokens(self) -> int:
        """Draft tokens that were in rows."""
    @property
    def accepted_draft_tokens(self) -> int:
        """Of these, those that landed."""
    @property
    def most_retractions(self) -> int:
        """Of one request; never above `max_retractions`."""
    @property
    def refusals(self) -> int:
        """Proposals of the planner that the machine refused; each ended one request (EventKind.FAILED)."""
    @property
    def policy_errors(self) -> int:
        """Answers of the policy that were errors or no answers; the default policy answered instead."""

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
    def outputs(self) -> NDArray[np.int32]:
        """[rows] most tokens that the row yields: 0 for a chunk of a prompt, 1, or more for a row that ends in drafts.

        A row of `outputs` n is sampled from at its last n tokens. The first sampled token is always accepted, and each
        further one if the draft token in front of it was what had just been sampled."""
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

class CopyKind:
    """Values of `CopyBatch.kinds`."""

    SPILL: Final[int]
    """From a block to a host page."""
    FETCH: Final[int]
    """From a host page to a block."""

class CopyBatch:
    """Copies to start, as arrays of one length. No two of those under way write the same block or host page."""

    def __len__(self) -> int: ...
    @property
    def ids(self) -> NDArray[np.int64]:
        """[copies] give them back to `Scheduler.transfer_done`."""
    @property
    def kinds(self) -> NDArray[np.uint8]:
        """[copies] see `CopyKind`."""
    @property
    def blocks(self) -> NDArray[np.int32]:
        """[copies] KV block."""
    @property
    def host_pages(self) -> NDArray[np.int32]:
        """[copies] host page, 0 <= page < num_host_blocks."""
    @property
    def num_tokens(self) -> NDArray[np.int32]:
        """[copies] tokens in the block; fewer than `block_size` for a partial page. Whole blocks may be copied."""

POLICIES: Final[str]
"""Names of the built-in policies, with commas between."""

class RequestView:
    """What a policy sees of a request."""

    @property
    def request_id(self) -> int: ...
    @property
    def arrival(self) -> int:
        """Number in order of arrival."""
    @property
    def priority(self) -> int: ...
    @property
    def deadline(self) -> int | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def known_tokens(self) -> int:
        """Prompt and output so far."""
    @property
    def computed_tokens(self) -> int:
        """Tokens whose KV is written."""
    @property
    def limit_tokens(self) -> int:
        """Prompt tokens plus the most tokens it may generate."""
    @property
    def blocks(self) -> int:
        """KV blocks that it holds."""
    @property
    def shared_blocks(self) -> int:
        """Of these, blocks that it found in the cache when it was admitted."""
    @property
    def retractions(self) -> int: ...

class PageView:
    """What a policy sees of a page that nobody holds any more."""

    @property
    def position(self) -> int:
        """Of its first token in its text."""
    @property
    def uses(self) -> int:
        """How often requests have found it, up to 255."""
    @property
    def owner_pages(self) -> int:
        """Full pages of the request that let go of it; 0 where nobody just did."""
    @property
    def owner_hits(self) -> int:
        """Of these, pages that it had found in the cache."""
    @property
    def owner_returns(self) -> bool:
        """It was retracted, and will want the page again."""

class CopyView:
    """A copy that may begin, and what it would save. Seconds follow from the figures in the configuration."""

    @property
    def tokens(self) -> int: ...
    @property
    def copy_s(self) -> float:
        """Seconds that it takes on the link."""
    @property
    def queued_s(self) -> float:
        """Seconds that copies queued before it take."""
    @property
    def recompute_s(self) -> float:
        """Seconds that computing the tokens again takes."""
    @property
    def urgent(self) -> bool:
        """Whether somebody waits for it."""

class Policy:
    """The default policy; subclass it to decide otherwise. The scheduler chooses by the answers among what is allowed.

    What a method raises, and what it returns that is no answer, is counted in `Stats.policy_errors`; the default
    answers instead.
    """

    def __init__(self) -> None: ...
    def place(self, request: RequestView) -> tuple[int, int]:
        """Place in the waiting line, asked for once: smaller is earlier, ties go by arrival.

        Default: (priority, deadline). After 64 younger requests were admitted before it, the oldest that waits is next.
        """
    def victim_cost(self, request: RequestView, config: SchedulerConfig) -> float:
        """What it costs to retract the request; the cheapest of the allowed ones is retracted. Default: seconds for
        each block that comes free."""
    def retention(self, page: PageView) -> int:
        """Class of the page, 0 to 3: it is evicted as if it had been released 0, 0.5, 1 or 2 pools of pages later."""
    def fetch(self, copy: CopyView) -> bool:
        """Whether a waiting request's pages are copied back instead of computed again."""
    def spill(self, page: PageView, copy: CopyView) -> bool:
        """Whether a page is copied to the host before it is evicted."""
    def wait_for_prefix(self, own_tokens: int, remaining_tokens: int) -> bool:
        """Whether a request waits for another that is computing the same prefix. `own_tokens`: what it would compute
        twice; `remaining_tokens`: what the other has to compute before all of that is there."""

class Scheduler:
    """The scheduler of one replica. Not thread-safe: one thread drives it."""

    def __init__(self, config: SchedulerConfig, spec_hash: str | None = None, policy: str | Policy = "default") -> None:
        """`spec_hash`: the specification that the driver is written for (`CONTRACT_HASH` for one that is kept with this
        package). `policy`: one of `POLICIES`, or an object of a subclass of `Policy`.

        Raises SpecMismatch if `spec_hash` is given and is not `SPEC_HASH`, the one that the binary is generated from,
        and ValueError for an unknown policy.
        """
    @property
    def config(self) -> SchedulerConfig: ...
    @property
    def limits(self) -> dict[str, int]:
        """The specification's constants in lower case, and the numbers of records (`step_records`, ...)."""

    def submit(
        self,
        request_id: int,
        tokens: NDArray[np.integer[Any]] | Sequence[int],
        max_new_tokens: int,
        priority: int = 0,
        deadline: int | None = None,
    ) -> SubmitResult:
        """Queue a request. `tokens`: [prompt tokens >= 1], non-negative ids (int32 is read in place, other integers
        and lists are converted); `max_new_tokens` >= 1.

        `priority` and `deadline` are for the policy: smaller is more urgent; deadlines are in any unit of the driver.

        Rejected if prompt + max_new_tokens can never fit the pool. Raises DuplicateRequest, BadRequest.
        """
    def submit_hashed(
        self,
        request_id: int,
        prompt_tokens: int,
        page_hashes: NDArray[np.integer[Any]] | Sequence[int],
        max_new_tokens: int,
        priority: int = 0,
        deadline: int | None = None,
    ) -> SubmitResult:
        """Queue a request known only by the chain hashes of its full blocks, as traces give them.

        `page_hashes`: [<= (prompt_tokens + max_new_tokens) // block_size]; entry i names the content of blocks 0..i
        together.
        Entries beyond the prompt name blocks that the output will fill; blocks without a hash are never shared.
        Rejects and raises as `submit`. Raises BadRequest also if a hash is here twice, or is known (on the device, on
        the host, or of a request that runs) behind another page: a hash names everything up to its page's end.
        """
    def abort(self, request_id: int) -> None:
        """End a request at any moment. Its blocks come back now, or when the last step that reads them has landed."""
    def plan(self) -> StepPlan | None:
        """The next step, or None until an event changes something (or `overlap_depth` + 1 steps are in flight)."""
    def land(
        self,
        step: int,
        tokens: NDArray[np.integer[Any]] | Sequence[int],
        counts: NDArray[np.integer[Any]] | Sequence[int] | None = None,
        stop: NDArray[np.bool_] | Sequence[bool] | None = None,
    ) -> None:
        """The device has finished `step`, the oldest in flight: also a step without sampling rows lands only so.

        `counts`: [sampling_rows] accepted tokens of each row, 1 to its `outputs` (a row of drafts that accepted k of
        them lands k + 1); None: one each. `tokens`: [sum of counts] their ids, row after row. `stop`: [sampling_rows]
        True where the row's last token ends its request (EOS, stop string).

        All of it is applied, or a typed error is raised and nothing has changed. Results of requests that were
        aborted meanwhile are ignored.
        """
    def offer_drafts(self, request_id: int, tokens: NDArray[np.integer[Any]] | Sequence[int]) -> None:
        """Propose what the request says behind its newest known token: at most `max_draft_tokens` ids, or none.

        Its next decode row carries as many of them as budget and free blocks allow, if no token has landed meanwhile.
        From the first call on the request has one row in flight at a time, since only a landed row says where the
        next one starts. Raises UnknownRequest, or BadRequest if they are too many or negative."""
    def copies(self) -> CopyBatch | None:
        """Copies that have begun since the last call, or None: poll after every `plan`, whether it gave a step or not.

        They run beside the steps and in any order, and each has to be reported with `transfer_done`.
        """
    def transfer_done(self, copy_ids: NDArray[np.integer[Any]] | Sequence[int]) -> None:
        """These copies have ended: [ids], in any order. All of it is applied, or UnknownCopy is raised and nothing has
        changed."""
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
    """The generated state machine in states that are given as bytes (`tokenspeed verify lockstep --through-python`).

    Not in the checked build. A state has one byte for each value that the scheduler keeps, in the order of
    `spec.layout.shared_order`.
    """

    def __init__(self, constants: list[int], population: list[int]) -> None:
        """In the order of the specification. Raises ValueError for a wrong number of them, or one beyond 0 to 99."""

    def answer(self, states: bytes, counts: bytes, proposals: bytes) -> tuple[bytes, bytes]:
        """Make proposals in many states: `counts` (4 bytes each) says how many of them belong to each state.

        A proposal has 8 bytes: transition number, 4 arguments (signed), 3 unused. Returns the answers (2 bytes each:
        number of the first false guard from 1, or 0; 65535 if something else changed than may) and the next states of
        what was accepted. Raises ValueError if the parts do not fit together.
        """
