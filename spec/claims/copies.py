"""What holds of copies, host pages, peers and drafts: P8, P12 and P13, each explained by its sentence."""

from ..language.expressions import Expr, after, lift, taken
from ..machines.prefix_tree import children, continues, host_before, key, parent, published
from ..machines.vocabulary import *

# P8: the tiers agree.


@spec.safety("P8", c=Copy, b=Block, h=Host)
def a_pair_has_the_same_tokens(c: Expr, b: Expr, h: Expr) -> Expr:
    """While a block and a host page are being copied, both stand for the same tokens at the same position."""
    same = (host_position(h) == position(b)) & (host_fill(h) == fill(b))
    return (block_of(c, b) & host_of(c, h)) >> same


@spec.safety("P8", c=Copy, h=Host)
def a_host_page_is_dropped_only_when_quiet(c: Expr, h: Expr) -> Expr:
    """A host page that is being filled or read is never empty."""
    filling = (copy_state(c) == C.SPILLING) >> (host_state(h) == H.FILLING)
    reading = (copy_state(c) == C.FETCHING) >> (host_state(h) == H.VALID)
    return host_of(c, h) >> (filling & reading)


@spec.safety("P8", h=Host)
def a_host_page_has_tokens(h: Expr) -> Expr:
    """A host page in use has between one token and a page of them, an empty one has none."""
    some = (host_fill(h) >= 1) & (host_fill(h) <= PAGE)
    empty = (host_state(h) == H.EMPTY) >> ((host_fill(h) == 0) & (host_position(h) == 0) & (host_copies(h) == 0))
    return empty & ((host_state(h) != H.EMPTY) >> some)


@spec.safety("P8", h=Host)
def a_filling_page_is_being_copied(h: Expr) -> Expr:
    """A host page that fills has exactly one copy, so it always becomes valid."""
    return (host_state(h) == H.FILLING) >> (host_copies(h) == 1)


@spec.safety("P8", b=Block)
def a_fetching_block_is_being_copied(b: Expr) -> Expr:
    """A block that is fetched has exactly one copy, so it always becomes matchable."""
    return (block_state(b) == B.FETCHING) >> (copies(b) == 1)


@spec.action("P8", h=Host)
def a_host_page_keeps_its_tokens(h: Expr) -> Expr:
    """A valid host page changes only by being dropped."""
    same = (after(host_fill(h)) == host_fill(h)) & (after(host_position(h)) == host_position(h))
    return (host_state(h) == H.VALID) >> (same | taken("drop_page"))


@spec.action("P8", b=Block)
def a_cached_block_keeps_its_tokens(b: Expr) -> Expr:
    """The tokens of a block that may be matched change only when it leaves the tree or becomes somebody's tail."""
    same = (after(fill(b)) == fill(b)) & (after(position(b)) == position(b))
    return block_state(b).isin(B.SHARED, B.CACHED, B.FETCHING) >> (
        same | taken("evict") | taken("match_tail") | taken("fetch_failed")
    )


@spec.action("P8", r=Request, b=Block)
def a_kept_tail_has_what_was_computed(r: Expr, b: Expr) -> Expr:
    """A partial block is kept with the computed tokens, and found again with all of them."""
    kept = (holds(r, b) & taken("keep_tail") & ~after(holds(r, b))) >> (position(b) + after(fill(b)) == computed(r))
    found = (taken("match_tail") & after(holds(r, b)) & ~holds(r, b)) >> (after(computed(r)) == position(b) + fill(b))
    return kept & found


@spec.action("P8", c=Copy, b=Block)
def what_did_not_arrive_is_never_matched(c: Expr, b: Expr) -> Expr:
    """A block that a failed copy was to fill never becomes one that can be matched."""
    return (failed(c) & block_of(c, b) & (copy_state(c) == C.FETCHING)) >> after(block_state(b)).isin(
        B.FETCHING, B.FREE
    )


@spec.action("P8", c=Copy, h=Host)
def what_did_not_arrive_is_never_fetched(c: Expr, h: Expr) -> Expr:
    """A host page that a failed copy was to fill never counts as valid."""
    return (failed(c) & host_of(c, h) & (copy_state(c) == C.SPILLING)) >> (after(host_state(h)) != H.VALID)


# P9 for copies: what engines and peers really touch.


@spec.safety("P9", b=Block)
def copies_touch_no_free_block(b: Expr) -> Expr:
    """A block that a copy may still touch is never free, so it is never handed to somebody else."""
    return (block_state(b) == B.FREE) >> (copies(b) == 0)


@spec.safety("P9", c=Copy, b=Block)
def a_copy_reads_complete_blocks_and_writes_its_own(c: Expr, b: Expr) -> Expr:
    """Spilled blocks are complete, fetched ones are nobody's yet, received ones are private or in limbo."""
    spilled = (copy_state(c) == C.SPILLING) >> block_state(b).isin(B.SHARED, B.CACHED)
    fetched = (copy_state(c) == C.FETCHING) >> (block_state(b) == B.FETCHING)
    received = (copy_state(c) == C.RECEIVING) >> block_state(b).isin(B.OWNED, B.LIMBO)
    sent = (copy_state(c) == C.SENDING) >> block_state(b).isin(B.OWNED, B.SHARED, B.CACHED, B.LIMBO)
    return block_of(c, b) >> (spilled & fetched & received & sent)


@spec.safety("P9", c=Copy)
def engines_work_on_copies_under_way(c: Expr) -> Expr:
    """The scheduler never treats a copy as over while its engine or peer is at work."""
    return copying(c) >> (copy_state(c) != C.IDLE)


@spec.action("P9", c=Copy)
def only_the_engine_ends_a_copy(c: Expr) -> Expr:
    """No decision of the scheduler can make a copy count as done."""
    return (copying(c) & ~after(copying(c))) >> (taken("copy_done") | taken("copy_fails"))


@spec.action("P9", c=Copy)
def a_copy_that_begins_is_at_work(c: Expr) -> Expr:
    """A copy is handed to its engine or peer when it begins."""
    return ((copy_state(c) == C.IDLE) & (after(copy_state(c)) != C.IDLE)) >> after(copying(c))


@spec.safety("P9", c=Copy)
def a_copy_fails_at_its_end(c: Expr) -> Expr:
    """Only a copy to or from the host fails, and then its engine is no longer at work."""
    return failed(c) >> (copy_state(c).isin(C.SPILLING, C.FETCHING) & ~copying(c))


@spec.action("P9", c=Copy)
def only_the_engine_makes_a_copy_fail(c: Expr) -> Expr:
    """No decision of the scheduler makes a copy fail, or makes its failure unseen while it lasts."""
    fails = (~failed(c) & after(failed(c))) >> taken("copy_fails")
    return fails & ((failed(c) & ~after(failed(c))) >> (after(copy_state(c)) == C.IDLE))


# P12: speculative tokens.


@spec.safety("P12", s=Step, r=Request)
def drafts_stay_within_the_width(s: Expr, r: Expr) -> Expr:
    """A row never yields more output tokens than were reserved for it."""
    return row_outputs(s, r) <= WIDTH


@spec.safety("P12", s=Step, r=Request)
def drafts_in_flight_have_room(s: Expr, r: Expr) -> Expr:
    """Every token of every row in flight, accepted or not, lies within the request's blocks."""
    return (in_step(s, r) & live(r)) >> (row_start(s, r) + row_tokens(s, r) <= end_of_table(r))


@spec.action("P12", r=Request)
def what_is_committed_is_never_rolled_back(r: Expr) -> Expr:
    """Rejected drafts take back planned tokens only, never known or computed ones."""
    committed = (known(r) <= after(known(r))) & (computed(r) <= after(computed(r)))
    return (running(r) & after(running(r))) >> (committed & (after(computed(r)) <= after(planned(r))))


@spec.action("P12", s=Step, r=Request)
def a_landed_row_yields_what_was_accepted(s: Expr, r: Expr) -> Expr:
    """A row that samples yields at least one output token and at most those reserved; other rows yield none."""
    lands = taken("land_row") & in_step(s, r) & ~after(in_step(s, r))
    gained = after(known(r)) - known(r)
    some = (row_outputs(s, r) >= 1) >> (gained >= 1)
    return lands >> (some & (gained <= row_outputs(s, r)))


# P13: peers.


@spec.safety("P13", c=Copy, r=Request, b=Block)
def a_received_block_is_nobody_elses(c: Expr, r: Expr, b: Expr) -> Expr:
    """While a peer writes a block, nobody holds it but the request that it is written for."""
    return ((copy_state(c) == C.RECEIVING) & block_of(c, b) & holds(r, b)) >> request_of(c, r)


@spec.safety("P13", c=Copy)
def a_copy_under_way_has_a_block(c: Expr) -> Expr:
    """A copy record is in use exactly as long as it has a block, so it is never lost."""
    return ((copy_state(c) == C.IDLE) >> (copy_blocks(c) == 0)) & ((copy_state(c) != C.IDLE) >> (copy_blocks(c) == 1))


@spec.safety("P13", c=Copy)
def only_peers_transfer_tokens(c: Expr) -> Expr:
    """A copy from or to a peer has tokens; a copy record that is used for nothing else carries none over."""
    peers = copy_state(c).isin(C.SENDING, C.RECEIVING)
    none = (copy_tokens(c) == 0) & (copy_start(c) == 0)
    return (peers >> (copy_tokens(c) >= 1)) & (~peers >> none)


@spec.safety("P13", c=Copy, b=Block)
def transferred_tokens_lie_in_the_block(c: Expr, b: Expr) -> Expr:
    """A peer reads and writes within the block of its copy only."""
    inside = (position(b) <= copy_start(c)) & (copy_start(c) + copy_tokens(c) <= position(b) + PAGE)
    return (copy_state(c).isin(C.SENDING, C.RECEIVING) & block_of(c, b)) >> inside


@spec.safety("P13", c=Copy, r=Request, b=Block)
def a_peer_writes_what_nobody_reads(c: Expr, r: Expr, b: Expr) -> Expr:
    """A peer writes tokens that are planned; no step reads them before all of them have arrived."""
    return (request_of(c, r) & live(r)) >> (copy_start(c) + copy_tokens(c) <= planned(r))


@spec.action("P13", c=Copy, r=Request, b=Block)
def only_written_tokens_are_sent(c: Expr, r: Expr, b: Expr) -> Expr:
    """A peer reads tokens that a running request has computed and that no other peer still writes."""
    begins = (copy_state(c) != C.SENDING) & (after(copy_state(c)) == C.SENDING) & after(block_of(c, b))
    written = after(copy_start(c)) + after(copy_tokens(c)) <= computed(r)
    private = (block_state(b) == B.OWNED) & holds(r, b)
    return (begins & private) >> (running(r) & written & (inbound(r) == 0))


@spec.safety("P13", c=Copy, r=Request)
def a_receiving_request_starts_or_leaves(c: Expr, r: Expr) -> Expr:
    """Peers write for requests that have not started to decode, or that left meanwhile."""
    known_to = request_state(r).isin(R.PREFILL, R.RETRACTING, R.RELEASING, R.FINISHED)
    return request_of(c, r) >> (known_to & (copy_state(c) == C.RECEIVING))


@spec.safety("P13", c=Copy, d=Copy, b=Block)
def one_peer_writes_a_block(c: Expr, d: Expr, b: Expr) -> Expr:
    """While a block is written by one copy, nothing else reads or writes it, except later parts of the same block."""
    writes_it = block_of(c, b) & copy_state(c).isin(C.FETCHING, C.RECEIVING)
    same_kind = copy_state(d) == copy_state(c)
    return (writes_it & block_of(d, b)) >> ((c == d) | same_kind | (copy_state(d) == C.SENDING))


@spec.safety("P13", c=Copy, b=Block, d=Block)
def a_copy_has_one_block(c: Expr, b: Expr, d: Expr) -> Expr:
    """A copy touches one block."""
    return (block_of(c, b) & block_of(c, d)) >> (b == d)


@spec.safety("P13", c=Copy, h=Host, i=Host)
def a_copy_has_one_host_page(c: Expr, h: Expr, i: Expr) -> Expr:
    """A copy involves one host page."""
    return (host_of(c, h) & host_of(c, i)) >> (h == i)


@spec.safety("P13", c=Copy, r=Request, q=Request)
def a_copy_has_one_request(c: Expr, r: Expr, q: Expr) -> Expr:
    """A peer writes for one request."""
    return (request_of(c, r) & request_of(c, q)) >> (r == q)


@spec.choice("P8", "spill", c=Copy, b=Block, h=Host)
def a_complete_block_can_be_spilled(c: Expr, b: Expr, h: Expr) -> Expr:
    """Whatever is complete can be copied to an empty host page, held or not."""
    return (copy_state(c) == C.IDLE) & block_state(b).isin(B.SHARED, B.CACHED) & (host_state(h) == H.EMPTY)


@spec.choice("P8", "fetch", c=Copy, b=Block, h=Host, p=Block)
def a_host_page_can_be_fetched(c: Expr, b: Expr, h: Expr, p: Expr) -> Expr:
    """A valid host page can be copied into any free block once the prefix before it is there, or on its way."""
    ready = (copy_state(c) == C.IDLE) & (block_state(b) == B.FREE) & (host_state(h) == H.VALID)
    behind = published(p) & (fill(p) == PAGE) & (key(p) == host_before(h)) & (position(p) + PAGE == host_position(h))
    return ready & (((host_position(h) == 0) & (p == b)) | behind)


@spec.choice("P8", "drop_page", h=Host)
def a_quiet_host_page_makes_room(h: Expr) -> Expr:
    """A host page that is not being copied can be dropped."""
    return (host_state(h) == H.VALID) & (host_copies(h) == 0)


@spec.choice("P8", "keep_tail", r=Request, b=Block, p=Block, arguments=lambda r, b, p: {"x": lift(1)})
def a_partial_tail_can_be_kept(r: Expr, b: Expr, p: Expr) -> Expr:
    """A leaving request's partial block, behind a shared one, can stay in the cache once nothing writes it."""
    tail = (position(b) < computed(r)) & (computed(r) <= position(b) + PAGE)
    written = (last_step(r) <= landed()) & (inbound(r) == 0)
    return leaving(r) & holds(r, b) & (block_state(b) == B.OWNED) & tail & written & continues(r, b, p)


@spec.choice(
    "P8",
    "match_shared",
    "match_cached",
    "match_tail",
    r=Request,
    b=Block,
    p=Block,
    arguments=lambda r, b, p: {"x": key(b)},
)
def a_prefix_that_is_found_is_used(r: Expr, b: Expr, p: Expr) -> Expr:
    """The next block of a waiting request's prefix is shared if it is whole, and taken over if it is partial."""
    next_one = (position(b) == planned(r)) & (planned(r) == capacity(r)) & (planned(r) + fill(b) < known(r))
    usable = (fill(b) == PAGE) | ((stamp(b) <= landed()) & (copies(b) == 0))
    found = block_state(b).isin(B.SHARED, B.CACHED) & parent(b, p) & ((p == b) | holds(r, p))
    return (request_state(r) == R.WAITING) & found & next_one & usable & ~holds(r, b)


@spec.choice("P13", "send", c=Copy, r=Request, b=Block, arguments=lambda c, r, b: {"n": computed(r) - position(b)})
def a_written_block_can_be_sent(c: Expr, r: Expr, b: Expr) -> Expr:
    """Whatever a running request has computed of a block can be sent to a peer."""
    tokens = (computed(r) - position(b) >= 1) & (computed(r) - position(b) <= PAGE)
    return (copy_state(c) == C.IDLE) & running(r) & holds(r, b) & tokens & (inbound(r) == 0)


@spec.choice("P13", "receive", c=Copy, r=Request, b=Block, arguments=lambda c, r, b: {"n": lift(1)})
def a_prompt_can_be_received(c: Expr, r: Expr, b: Expr) -> Expr:
    """A peer can write the next prompt token of a request that runs but is in no step, except the last one."""
    ready = (copy_state(c) == C.IDLE) & (request_state(r) == R.PREFILL) & (pending(r) == 0)
    room = (position(b) <= planned(r)) & (planned(r) < position(b) + PAGE) & (planned(r) + 1 < known(r))
    return ready & holds(r, b) & (block_state(b) == B.OWNED) & room


@spec.choice("P13", "receive_failed", c=Copy, r=Request, b=Block)
def a_lost_peer_sets_the_request_back(c: Expr, r: Expr, b: Expr) -> Expr:
    """A running request whose peer is gone starts again."""
    return (
        (request_state(r) == R.PREFILL)
        & (copy_state(c) == C.RECEIVING)
        & block_of(c, b)
        & request_of(c, r)
        & (~copying(c))
    )


@spec.choice("P13", "spill_done", "spill_failed", c=Copy, b=Block, h=Host)
def a_spill_that_ended_is_closed(c: Expr, b: Expr, h: Expr) -> Expr:
    """When the engine is done with a spill, the host page becomes valid, or is empty again if the copy failed."""
    return (copy_state(c) == C.SPILLING) & block_of(c, b) & host_of(c, h) & ~copying(c)


@spec.choice("P13", "fetch_done", c=Copy, b=Block, h=Host)
def a_fetch_that_arrived_is_closed(c: Expr, b: Expr, h: Expr) -> Expr:
    """When the engine is done with a fetch, the block can be matched."""
    return (copy_state(c) == C.FETCHING) & block_of(c, b) & host_of(c, h) & ~copying(c) & ~failed(c)


@spec.choice("P13", "fetch_failed", c=Copy, b=Block, h=Host, p=Block)
def a_fetch_that_failed_gives_its_block_back(c: Expr, b: Expr, h: Expr, p: Expr) -> Expr:
    """A block whose fetch failed is free again as soon as nothing that was fetched behind it is left."""
    ended = (copy_state(c) == C.FETCHING) & block_of(c, b) & host_of(c, h) & ~copying(c) & failed(c)
    return ended & parent(b, p) & (children(b) == 0)


@spec.choice("P13", "send_done", c=Copy, b=Block)
def a_send_that_ended_is_closed(c: Expr, b: Expr) -> Expr:
    """When the peer has acknowledged, the block may be used again, even if its request is long gone."""
    return (copy_state(c) == C.SENDING) & block_of(c, b) & ~copying(c)


@spec.choice("P13", "receive_done", "receive_dropped", c=Copy, r=Request, b=Block)
def a_receive_that_ended_counts_or_is_dropped(c: Expr, r: Expr, b: Expr) -> Expr:
    """When a peer has written, the tokens count if the request still runs, and else the block is let go."""
    return (copy_state(c) == C.RECEIVING) & block_of(c, b) & request_of(c, r) & ~copying(c)
