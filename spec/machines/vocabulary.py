"""The state: every variable of the request, block and step machines, and what each counter counts.

A KV block holds the keys and values of PAGE consecutive tokens. Requests hold blocks, steps are what the device
executes. Relations replace lists (`holds` is the block table), so that all proofs are for any number of requests,
blocks and steps.
"""

from ..expressions import BOOL, INT, TICK, Expr
from ..language import Spec

spec = Spec("tokenspeed")

Request = spec.sort("Request", "r")
Block = spec.sort("Block", "b")
Step = spec.sort("Step", "s")

PAGE = spec.constant("PAGE", 1, "tokens per KV block")
BLOCKS = spec.constant("BLOCKS", 0, "KV blocks in the pool")

R = spec.enum(
    "RequestState",
    ABSENT="this record is unused",
    WAITING="submitted, or retracted and queued again; may hold a cached prefix",
    PREFILL="running; known tokens are not all planned yet",
    DECODE="running; each step plans one token, whose input is known or being sampled",
    RETRACTING="preempted; gives its blocks back and then waits again",
    RELEASING="finished or aborted; gives its blocks back",
    FINISHED="holds nothing; a step in flight may still mention it",
)
B = spec.enum(
    "BlockState",
    FREE="nobody holds it and no step touches it",
    OWNED="private to one request, which may write it",
    SHARED="full and published as a prefix; any number of holders, nobody writes",
    CACHED="full, held by nobody, can be matched again or evicted",
    LIMBO="released, but a step in flight may still touch it",
)
S = spec.enum(
    "StepState",
    IDLE="this record is unused",
    PLANNED="rows are being added",
    INFLIGHT="handed to the device",
    DONE="the device is through; its rows are being landed",
)

# Requests.
request_state = spec.variable("request_state", Request, of=R, init=R.ABSENT, doc="where the request is in its life")
arrival = spec.variable("arrival", Request, of=INT, init=0, doc="arrival number; smaller is older")
prompt = spec.variable("prompt", Request, of=INT, init=0, doc="prompt tokens")
limit = spec.variable("limit", Request, of=INT, init=0, doc="prompt tokens plus the most tokens it may generate")
known = spec.variable("known", Request, of=INT, init=0, doc="tokens whose value is known: prompt plus landed output")
planned = spec.variable("planned", Request, of=INT, init=0, doc="tokens whose KV is written or being written")
computed = spec.variable("computed", Request, of=INT, init=0, doc="tokens whose KV has been written by landed steps")
last_step = spec.variable("last_step", Request, of=TICK, init=0, doc="number of the last step that the request was in")

# Blocks.
block_state = spec.variable("block_state", Block, of=B, init=B.FREE, doc="who may do what with the block")
position = spec.variable("position", Block, of=INT, init=0, doc="position in its sequence of the block's first token")
fill = spec.variable("fill", Block, of=INT, init=0, doc="tokens planned into the block")
stamp = spec.variable("stamp", Block, of=TICK, init=0, doc="last step that a former holder of the block was in")
holds = spec.variable("holds", Request, Block, of=BOOL, init=False, doc="the block is in the request's block table")

# Steps. A row is a request's share of a step: a run of consecutive tokens.
step_state = spec.variable("step_state", Step, of=S, init=S.IDLE, doc="where the step is in its life")
number = spec.variable("number", Step, of=TICK, init=0, doc="number of the step, in order of planning")
in_step = spec.variable("in_step", Step, Request, of=BOOL, init=False, doc="the request has a row in the step")
row_start = spec.variable("row_start", Step, Request, of=INT, init=0, doc="position of the row's first token")
row_tokens = spec.variable("row_tokens", Step, Request, of=INT, init=0, doc="tokens in the row")
row_samples = spec.variable("row_samples", Step, Request, of=BOOL, init=False, doc="the row ends in a sampled token")
opened = spec.variable("opened", of=TICK, init=0, doc="number of the newest step")
launched = spec.variable("launched", of=TICK, init=0, doc="number of the newest step handed to the device")
landed = spec.variable("landed", of=TICK, init=0, doc="number of the newest step whose results are all in")
newest_arrival = spec.variable("newest_arrival", of=INT, init=0, doc="arrival number of the newest request")

# Ghosts: the physical truth that the scheduler cannot see, and what the proofs talk about.
executing = spec.variable("executing", Step, of=BOOL, init=False, ghost=True, doc="the device is working on the step")
reads = spec.variable(
    "reads", Step, Request, Block, of=BOOL, init=False, ghost=True, doc="the step may read the block for this request"
)
writes = spec.variable(
    "writes", Step, Request, Block, of=BOOL, init=False, ghost=True, doc="the step writes the block for this request"
)

# Counters: the meaning is given, effects maintain it, the prover checks that they do.
refs = spec.count("refs", Block, over=Request, of=lambda r, b: holds(r, b), doc="requests that hold the block")
blocks = spec.count("blocks", Request, over=Block, of=lambda b, r: holds(r, b), doc="blocks that the request holds")
capacity = spec.count(
    "capacity",
    Request,
    over=Block,
    of=lambda b, r: holds(r, b),
    weight=lambda b, r: PAGE,
    part_of=blocks,
    doc="tokens that fit the blocks that the request holds",
)
stored = spec.count(
    "stored",
    Request,
    over=Block,
    of=lambda b, r: holds(r, b),
    weight=lambda b, r: fill(b),
    part_of=blocks,
    ghost=True,
    doc="tokens planned into the blocks that the request holds",
)
pending = spec.count(
    "pending",
    Request,
    over=Step,
    of=lambda s, r: in_step(s, r),
    doc="steps not landed yet that have a row of the request",
)
sampling = spec.count(
    "sampling",
    Request,
    over=Step,
    of=lambda s, r: in_step(s, r) & row_samples(s, r),
    part_of=pending,
    doc="output tokens of the request that are being sampled",
)
flying = spec.count(
    "flying",
    Request,
    over=Step,
    of=lambda s, r: in_step(s, r),
    weight=lambda s, r: row_tokens(s, r),
    part_of=pending,
    ghost=True,
    doc="tokens of the request in steps that have not landed",
)
rows = spec.count(
    "rows", Step, over=Request, of=lambda r, s: in_step(s, r), doc="rows of the step that have not landed"
)
free = spec.count("free", over=Block, of=lambda b: block_state(b) == B.FREE, init=BLOCKS, doc="free blocks")
held = spec.count(
    "held", over=Block, of=lambda b: block_state(b).isin(B.OWNED, B.SHARED, B.LIMBO), doc="blocks held or in limbo"
)
cached = spec.count("cached", over=Block, of=lambda b: block_state(b) == B.CACHED, doc="cached blocks")


def running(r: Expr) -> Expr:
    """The request takes part in planning."""
    return request_state(r).isin(R.PREFILL, R.DECODE)


def leaving(r: Expr) -> Expr:
    """The request gives its blocks back."""
    return request_state(r).isin(R.RETRACTING, R.RELEASING)


def absent(r: Expr) -> Expr:
    """The record is unused."""
    return request_state(r) == R.ABSENT


def live(r: Expr) -> Expr:
    """The request keeps its blocks."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE)


def idle(b: Expr) -> Expr:
    """Nobody holds the block."""
    return block_state(b).isin(B.FREE, B.CACHED, B.LIMBO)
