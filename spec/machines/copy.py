"""Host pages and peers: copies that run beside the steps, each touching one block until its engine or peer is done.

Spill and fetch move content between the device and the host. Send and receive move it between this server and a peer
(prefill and decode on different servers): the pages of a pending transfer form a set, one copy for each, and stay
where they are until that copy has ended, whatever becomes of the request meanwhile.
"""

from ..language.expressions import Expr, if_else
from ..language.spec import Number, Transition
from .prefix_tree import before, content, hang_fetched, host_before, host_content, host_key, key, prune_leaf
from .vocabulary import *


def begin(t: Transition, c: Expr, b: Expr, to: Expr) -> None:
    """Guards and effects: an unused copy record starts to touch the block."""
    t.move(copy_state[c], C.IDLE, to)
    t.join(block_of[c, b])
    t.set(copying[c], True)


def end(t: Transition, c: Expr, b: Expr, was: Expr, h: Expr | None = None) -> None:
    """Guards and effects: the driver reports that the copy, which may have involved a host page, is over."""
    t.move(copy_state[c], was, C.IDLE)
    t.guard("its block", block_of(c, b))
    t.guard("engine idle", ~copying(c))
    t.leave(block_of[c, b])
    t.set(failed[c], False)
    if h is not None:
        t.guard("its host page", host_of(c, h))
        t.leave(host_of[c, h])


def forget_page(t: Transition, h: Expr) -> None:
    """Effects: the host page stands for nothing."""
    for variable in (host_position, host_fill, host_key, host_before):
        t.set(variable[h], 0)


def transfer(t: Transition, c: Expr, start: Expr | int, tokens: Expr | int) -> None:
    """Effects: which tokens a peer reads or writes."""
    t.set(copy_start[c], start)
    t.set(copy_tokens[c], tokens)


@spec.transition(c=Copy, b=Block, h=Host)
def spill(t: Transition, c: Expr, b: Expr, h: Expr) -> None:
    """A complete block is copied to the host; meanwhile it may be matched and read."""
    t.stay(block_state[b], B.SHARED, B.CACHED)
    t.move(host_state[h], H.EMPTY, H.FILLING)
    begin(t, c, b, C.SPILLING)
    t.join(host_of[c, h])
    t.set(host_position[h], position(b))
    t.set(host_fill[h], fill(b))
    t.set(host_key[h], key(b))
    t.set(host_before[h], before(b))


@spec.transition(c=Copy, b=Block, h=Host)
def spill_done(t: Transition, c: Expr, b: Expr, h: Expr) -> None:
    """The host page has the block's content; the block may be evicted."""
    end(t, c, b, C.SPILLING, h)
    t.guard("arrived", ~failed(c))
    t.move(host_state[h], H.FILLING, H.VALID)
    t.set(host_content[h], if_else(failed(c), 0, content(b)))


@spec.transition(c=Copy, b=Block, h=Host)
def spill_failed(t: Transition, c: Expr, b: Expr, h: Expr) -> None:
    """The copy to the host came to nothing: the page is empty again, the block is as before."""
    end(t, c, b, C.SPILLING, h)
    t.guard("did not arrive", failed(c))
    t.move(host_state[h], H.FILLING, H.EMPTY)
    forget_page(t, h)


@spec.transition(c=Copy, b=Block, h=Host, p=Block)
def fetch(t: Transition, c: Expr, b: Expr, h: Expr, p: Expr) -> None:
    """A host page is copied back into a free block, under the block that stands for the prefix before it."""
    t.move(block_state[b], B.FREE, B.FETCHING)
    t.stay(host_state[h], H.VALID)
    begin(t, c, b, C.FETCHING)
    t.join(host_of[c, h])
    t.set(position[b], host_position(h))
    t.set(fill[b], host_fill(h))
    hang_fetched(t, b, h, p)


@spec.transition(c=Copy, b=Block, h=Host)
def fetch_done(t: Transition, c: Expr, b: Expr, h: Expr) -> None:
    """The block has the host page's content and can be matched."""
    end(t, c, b, C.FETCHING, h)
    t.guard("arrived", ~failed(c))
    t.move(block_state[b], B.FETCHING, B.CACHED)
    t.set(content[b], if_else(failed(c), 0, host_content(h)))


@spec.transition(c=Copy, b=Block, h=Host, p=Block)
def fetch_failed(t: Transition, c: Expr, b: Expr, h: Expr, p: Expr) -> None:
    """The copy from the host came to nothing: the block is free again. What was fetched behind it has to go first."""
    end(t, c, b, C.FETCHING, h)
    t.guard("did not arrive", failed(c))
    t.move(block_state[b], B.FETCHING, B.FREE)
    prune_leaf(t, b, p)
    t.set(fill[b], 0)


@spec.transition(h=Host)
def drop_page(t: Transition, h: Expr) -> None:
    """A host page makes room."""
    t.move(host_state[h], H.VALID, H.EMPTY)
    t.guard("not being copied", host_copies(h) == 0)
    forget_page(t, h)
    t.set(host_content[h], 0)


@spec.transition(c=Copy, r=Request, b=Block, n=Number(1, PAGE, tried=(0, PAGE + 1)))
def send(t: Transition, c: Expr, r: Expr, b: Expr, n: Expr) -> None:
    """A peer reads the first `n` tokens of a request's block."""
    t.stay(request_state[r], R.PREFILL, R.DECODE)
    t.guard("held", holds(r, b))
    t.guard("written", position(b) + n <= computed(r))
    t.guard("nothing arriving", inbound(r) == 0)
    begin(t, c, b, C.SENDING)
    t.was(request_of[c, r], False)
    transfer(t, c, position(b), n)


@spec.transition(c=Copy, b=Block)
def send_done(t: Transition, c: Expr, b: Expr) -> None:
    """The peer has acknowledged, or is gone for good."""
    end(t, c, b, C.SENDING)
    transfer(t, c, 0, 0)


@spec.transition(c=Copy, r=Request, b=Block, n=Number(1, tried=(0, PAGE + 1)))
def receive(t: Transition, c: Expr, r: Expr, b: Expr, n: Expr) -> None:
    """A peer writes `n` prompt tokens of a request that is in no step into its block."""
    t.stay(request_state[r], R.PREFILL)
    t.stay(block_state[b], B.OWNED)
    t.guard("held", holds(r, b))
    t.guard("in no step", pending(r) == 0)
    t.guard("starts in the block", position(b) <= planned(r))
    t.guard("room in block", planned(r) + n <= position(b) + PAGE)
    t.guard("last token recomputed", planned(r) + n < known(r))
    begin(t, c, b, C.RECEIVING)
    t.join(request_of[c, r])
    transfer(t, c, planned(r), n)
    t.add(planned[r], n)


def received(t: Transition, c: Expr, r: Expr, b: Expr) -> None:
    """Guards and effects: the copy into the request's block is over."""
    end(t, c, b, C.RECEIVING)
    t.guard("its request", request_of(c, r))
    t.leave(request_of[c, r])
    transfer(t, c, 0, 0)


@spec.transition(c=Copy, r=Request, b=Block)
def receive_done(t: Transition, c: Expr, r: Expr, b: Expr) -> None:
    """The peer has written the tokens."""
    t.stay(request_state[r], R.PREFILL)
    received(t, c, r, b)
    t.add(computed[r], copy_tokens(c))


@spec.transition(c=Copy, r=Request, b=Block)
def receive_failed(t: Transition, c: Expr, r: Expr, b: Expr) -> None:
    """The peer is gone: the request starts again, and computes its prompt here."""
    t.move(request_state[r], R.PREFILL, R.RETRACTING)
    received(t, c, r, b)


@spec.transition(c=Copy, r=Request, b=Block)
def receive_dropped(t: Transition, c: Expr, r: Expr, b: Expr) -> None:
    """The request left meanwhile; only now the block may be used again."""
    t.stay(request_state[r], R.RETRACTING, R.RELEASING, R.FINISHED)
    received(t, c, r, b)


@spec.transition(actor="copy engine", c=Copy)
def copy_done(t: Transition, c: Expr) -> None:
    """The copy engine or the peer touches the block no more."""
    t.guard("copying", copying(c))
    t.set(copying[c], False)


@spec.transition(actor="copy engine", c=Copy)
def copy_fails(t: Transition, c: Expr) -> None:
    """The copy engine gives up between device and host: an error, a lost node, a full disk."""
    t.guard("copying", copying(c))
    t.guard("to or from the host", copy_state(c).isin(C.SPILLING, C.FETCHING))
    t.set(copying[c], False)
    t.set(failed[c], True)
