"""The state: every variable of the machines, and what each counter counts.

A KV block holds the keys and values of PAGE consecutive tokens. Requests hold blocks, steps are what the device
executes, copies are what copy engines and peers do beside it, host pages keep blocks outside the device. Relations
replace lists (`holds` is the block table), so that all proofs are for any number of individuals.
"""

from ..language.expressions import BOOL, INT, TICK, Expr, lift
from ..language.spec import Spec
from .bounds import ARRIVAL

spec = Spec("tokenspeed")

Request = spec.sort("Request", "r", grows=True)
Block = spec.sort("Block", "b")
Step = spec.sort("Step", "s", inhabited=True)
Host = spec.sort("Host", "h")
Copy = spec.sort("Copy", "c")

PAGE = spec.constant("PAGE", 1, "tokens per KV block")
BLOCKS = spec.constant("BLOCKS", 0, "KV blocks in the pool")
ROOM = spec.constant("ROOM", 0, "tokens that fit the pool: PAGE for each block")
HOSTS = spec.constant("HOSTS", 0, "host pages, each for the content of one block")
WIDTH = spec.constant("WIDTH", 1, "most output tokens that one row may yield: one, and the draft tokens accepted")
WINDOW = spec.constant("WINDOW", 1, "how many tokens back attention looks, the token itself included")

MAX_PROMPT, MAX_OUTPUT = (Expr("const", name, type=INT) for name in ("MAX_PROMPT", "MAX_OUTPUT"))
"""Bounds of a search: prompt tokens and output tokens of a request."""

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
    CACHED="complete, held by nobody, can be matched again or evicted",
    LIMBO="released, but a step in flight or a copy may still touch it",
    FETCHING="being filled from a host page; nobody holds it",
)
S = spec.enum(
    "StepState",
    IDLE="this record is unused",
    PLANNED="rows are being added",
    INFLIGHT="handed to the device",
    DONE="the device is through; its rows are being landed",
)
H = spec.enum(
    "HostState",
    EMPTY="holds nothing",
    FILLING="a copy from a block is on its way",
    VALID="holds the content of a block; can be fetched or dropped",
)
C = spec.enum(
    "CopyState",
    IDLE="this record is unused",
    SPILLING="from a block to a host page",
    FETCHING="from a host page to a block",
    SENDING="from a block to a peer",
    RECEIVING="from a peer to a block",
)

# Requests.
request_state = spec.variable("request_state", Request, of=R, init=R.ABSENT, doc="where the request is in its life")
arrival = spec.variable("arrival", Request, of=ARRIVAL, doc="arrival number; smaller is older")
prompt = spec.variable("prompt", Request, of=INT, doc="prompt tokens")
limit = spec.variable("limit", Request, of=INT, doc="prompt tokens plus the most tokens it may generate")
known = spec.variable("known", Request, of=INT, doc="tokens whose value is known: prompt plus landed output")
planned = spec.variable("planned", Request, of=INT, doc="tokens whose KV is written or being written")
computed = spec.variable("computed", Request, of=INT, doc="tokens whose KV is written: landed or received")
pruned = spec.variable("pruned", Request, of=INT, doc="tokens behind the attention window, given back")
guided = spec.variable(
    "guided", Request, of=BOOL, doc="each output token must be seen before the next is planned: a grammar"
)
last_step = spec.variable("last_step", Request, of=TICK, doc="number of the last step that the request was in")

# Blocks.
block_state = spec.variable("block_state", Block, of=B, init=B.FREE, doc="who may do what with the block")
position = spec.variable("position", Block, of=INT, doc="position in its sequence of the block's first token")
fill = spec.variable("fill", Block, of=INT, doc="tokens that whoever matches the block gets; 0 if none may")
stamp = spec.variable("stamp", Block, of=TICK, doc="last step that a former holder of the block was in")
holds = spec.variable("holds", Request, Block, of=BOOL, table=position, doc="the block is in the request's table")

# Steps. A row is a request's share of a step: a run of consecutive tokens.
step_state = spec.variable("step_state", Step, of=S, init=S.IDLE, doc="where the step is in its life")
number = spec.variable("number", Step, of=TICK, doc="number of the step, in order of planning")
in_step = spec.variable("in_step", Step, Request, of=BOOL, doc="the request has a row in the step")
row_tokens = spec.variable("row_tokens", Step, Request, of=INT, doc="tokens in the row")
row_outputs = spec.variable("row_outputs", Step, Request, of=INT, doc="most output tokens the row may yield")
opened = spec.variable("opened", of=TICK, doc="number of the newest step")
launched = spec.variable("launched", of=TICK, doc="number of the newest step handed to the device")
landed = spec.variable("landed", of=TICK, doc="number of the newest step whose results are all in")
spec.tick_origin = landed  # step numbers are only compared: a state and its shift by this number are alike
newest_arrival = spec.variable("newest_arrival", of=ARRIVAL, doc="arrival number of the newest request")

# Host pages, and copies between a block and a host page or a peer.
host_state = spec.variable("host_state", Host, of=H, init=H.EMPTY, doc="what the host page holds")
host_position = spec.variable("host_position", Host, of=INT, doc="position of the page's first token")
host_fill = spec.variable("host_fill", Host, of=INT, doc="tokens in the host page")
copy_state = spec.variable("copy_state", Copy, of=C, init=C.IDLE, doc="from where to where")
copy_tokens = spec.variable("copy_tokens", Copy, of=INT, doc="tokens that a peer reads or writes")
block_of = spec.variable("block_of", Copy, Block, of=BOOL, one=True, doc="the copy's block")
host_of = spec.variable("host_of", Copy, Host, of=BOOL, one=True, doc="the copy's host page")
request_of = spec.variable("request_of", Copy, Request, of=BOOL, one=True, doc="who receives from the peer")

# Ghosts: the physical truth that the scheduler cannot see, and what the proofs talk about.
executing = spec.variable("executing", Step, of=BOOL, ghost=True, doc="the device is working on the step")
copying = spec.variable("copying", Copy, of=BOOL, ghost=True, doc="the copy engine or the peer is at work")
failed = spec.variable("failed", Copy, of=BOOL, ghost=True, doc="the copy engine gave up; what it wrote is worthless")
copy_start = spec.variable("copy_start", Copy, of=INT, ghost=True, doc="position of the first of these tokens")
row_start = spec.variable("row_start", Step, Request, of=INT, ghost=True, doc="position of the row's first token")
reads = spec.variable("reads", Step, Request, Block, of=BOOL, ghost=True, doc="it may read the block for the request")
writes = spec.variable("writes", Step, Request, Block, of=BOOL, ghost=True, doc="it writes the block for the request")

# Counters: the meaning is given, effects follow from it, the prover checks that they do.
refs = spec.count("refs", Block, of=holds, doc="requests that hold the block")
blocks = spec.count("blocks", Request, of=holds, doc="blocks that the request holds")
capacity = spec.count("capacity", Request, of=holds, weight=PAGE, part_of=blocks, doc="tokens that fit these blocks")
pending = spec.count("pending", Request, of=in_step, doc="steps not landed yet that have a row of the request")
sampling = spec.count(
    "sampling", Request, of=in_step, weight=row_outputs, part_of=pending,
    doc="most output tokens of the request that are being sampled",
)  # fmt: skip
flying = spec.count(
    "flying", Request, of=in_step, weight=row_tokens, part_of=pending, ghost=True, doc="tokens in steps not landed yet"
)
rows = spec.count("rows", Step, of=in_step, doc="rows of the step that have not landed")
copies = spec.count("copies", Block, of=block_of, doc="copies that touch the block")
host_copies = spec.count("host_copies", Host, of=host_of, doc="copies of the host page")
copy_blocks = spec.count("copy_blocks", Copy, of=block_of, ghost=True, doc="blocks that the copy touches")
copy_hosts = spec.count("copy_hosts", Copy, of=host_of, ghost=True, doc="host pages that the copy involves")
copy_requests = spec.count("copy_requests", Copy, of=request_of, ghost=True, doc="who receives from the peer")
inbound = spec.count("inbound", Request, of=request_of, doc="copies it still receives")
arriving = spec.count(
    "arriving", Request, of=request_of, weight=copy_tokens, part_of=inbound, ghost=True, doc="tokens peers are writing"
)
free = spec.count("free", over=Block, of=lambda b: block_state(b) == B.FREE, init=BLOCKS, doc="free blocks")
held = spec.count(
    "held", over=Block, of=lambda b: block_state(b).isin(B.OWNED, B.SHARED, B.LIMBO), doc="blocks held or in limbo"
)
cached = spec.count("cached", over=Block, of=lambda b: block_state(b) == B.CACHED, doc="cached blocks")
fetching = spec.count("fetching", over=Block, of=lambda b: block_state(b) == B.FETCHING, doc="blocks being fetched")
spare_pages = spec.count("spare_pages", over=Host, of=lambda h: host_state(h) == H.EMPTY, init=HOSTS, doc="empty pages")
used_pages = spec.count("used_pages", over=Host, of=lambda h: host_state(h) != H.EMPTY, doc="host pages in use")
held_room = spec.count(
    "held_room", over=Block, of=lambda b: block_state(b).isin(B.OWNED, B.SHARED), weight=PAGE, ghost=True,
    doc="tokens that fit the blocks in block tables",
)  # fmt: skip
idle_room = spec.count(
    "idle_room", over=Block, of=lambda b: ~block_state(b).isin(B.OWNED, B.SHARED), weight=PAGE, init=ROOM, ghost=True,
    doc="tokens that fit all other blocks",
)  # fmt: skip
table_entries = spec.count(
    "table_entries", over=Request, of=lambda r: lift(True), weight=blocks, ghost=True, doc="entries of all block tables"
)
live_steps = spec.count(
    "live_steps", over=Step, of=lambda s: step_state(s) != S.IDLE, ghost=True, doc="steps that have not landed"
)


@spec.definition(r=Request)
def running(r: Expr) -> Expr:
    """The request takes part in planning."""
    return request_state(r).isin(R.PREFILL, R.DECODE)


@spec.definition(r=Request)
def leaving(r: Expr) -> Expr:
    """The request gives its blocks back."""
    return request_state(r).isin(R.RETRACTING, R.RELEASING)


@spec.definition(r=Request)
def absent(r: Expr) -> Expr:
    """The record is unused."""
    return request_state(r) == R.ABSENT


@spec.definition(r=Request)
def live(r: Expr) -> Expr:
    """The request keeps its blocks."""
    return request_state(r).isin(R.WAITING, R.PREFILL, R.DECODE)


@spec.definition(b=Block)
def idle(b: Expr) -> Expr:
    """Nobody holds the block."""
    return block_state(b).isin(B.FREE, B.CACHED, B.LIMBO, B.FETCHING)


@spec.definition(r=Request)
def end_of_table(r: Expr) -> Expr:
    """The position behind the last block of the request."""
    return pruned(r) + capacity(r)
