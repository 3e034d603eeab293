"""The historic bugs, in our own words. Threads are cited as they stood; some were open (the reporters' analysis)."""

from __future__ import annotations

from .case import Bug, Source

VLLM, ASCEND, SGLANG, JAX = (
    "vllm-project/vllm",
    "vllm-project/vllm-ascend",
    "sgl-project/sglang",
    "sgl-project/sglang-jax",
)
TENSORRT, TOKENSPEED = "NVIDIA/TensorRT-LLM", "lightseekorg/tokenspeed"

RELEASE = "released while something asynchronous still runs"
CACHE = "the cache says something that is not so"
COUNT = "two books about the same thing"
LOST = "something is forgotten for ever"
PROGRESS = "no progress"
UNSEEN = "decided before it was known"


def issue(repository: str, number: int) -> Source:
    """An issue on GitHub."""
    return Source(repository, "issue", number)


def pull(repository: str, number: int) -> Source:
    """A pull request on GitHub."""
    return Source(repository, "PR", number)


BUGS: tuple[Bug, ...] = (
    Bug(
        "freed-under-overlap", "Pages returned while the next step still uses them",
        (pull(VLLM, 45357),), RELEASE,
        "With asynchronous scheduling a request that finished or was preempted gave its pages back at once, although "
        "the step after it was already on the device. Received pages were then written over by that step.",
        "A private block is freed without asking whether a step in flight has the request.",
        ("release_owned:not in flight",), "no free block in flight", aside=("receive", "finish"),
    ),
    Bug(
        "freed-without-waiting", "The whole request freed a step too early",
        (issue(ASCEND, 14055),), RELEASE,
        "On finish, abort and preemption all pages of a request were made available while a dispatched step could "
        "still touch them.",
        "Blocks are put into limbo, but nobody waits there for the last step to land.",
        ("reap:not in flight",), "no free block in flight", aside=("receive",),
    ),
    Bug(
        "window-pruned-in-flight", "Pages behind the sliding window pruned under a running step",
        (issue(ASCEND, 13501), issue(ASCEND, 13518)), RELEASE,
        "Pages that the attention window had left behind were freed while a step that was dispatched earlier, with an "
        "older window, still read them.",
        "The running request gives back a block behind its window without asking whether a step in flight has it.",
        ("release_owned:not in flight",), "no free block in flight", aside=("abort", "finish", "retract", "receive"),
    ),
    Bug(
        "hit-without-pin", "A prefix hit evicted before it was pinned",
        (issue(VLLM, 37076), pull(VLLM, 37164)), CACHE,
        "A request looked up its cached prefix; before the pages were pinned, another request evicted them. (The "
        "threads were open; this is the reporters' analysis.)",
        "A block is matched without asking whether it still is in the cache and whole.",
        ("match_cached:block CACHED", "match_cached:whole"), "shared block is full",
    ),
    Bug(
        "evicted-but-listed", "An evicted page stayed in the table of cached pages",
        (pull(VLLM, 4761), pull(VLLM, 4762)), CACHE,
        "A page was taken from the evictor and given out, but its entry in the table of cached pages remained, so that "
        "it could still be found by its old content.",
        "Eviction counts the block as free and clears it, but leaves it in the state CACHED.",
        ("evict:effect block_state",), "cached block has tokens", aside=("receive",),
    ),
    Bug(
        "preempted-with-output-pending", "A preempted request got the output of its former life",
        (pull(VLLM, 47900), issue(VLLM, 48245)), RELEASE,
        "Preemption reset the request's counters while a step that contained it was in flight. When the result came "
        "in, the number of outstanding tokens went below zero and the engine stopped.",
        "A request is retracted although a step in flight has a row of it.",
        ("retract:drained",), "no stale row", requests=2,
    ),
    Bug(
        "freed-under-remote-load", "An abort freed pages that a remote load was writing",
        (pull(VLLM, 32255),), RELEASE,
        "A request was aborted while its prefix was being loaded from another server; its pages went back to the pool "
        "and the load kept writing into them.",
        "A private block is freed without asking whether a peer still writes it.",
        ("release_owned:not being copied",), "copies touch no free block", aside=("send", "open_step"),
    ),
    Bug(
        "load-never-completed", "Pages of an aborted load held for ever",
        (issue(VLLM, 46283), pull(VLLM, 46289)), LOST,
        "After an abort the completion of a remote load was no longer attended to, so that the pages which waited for "
        "it were never returned.",
        "Nobody lets go of a received block when its request has left.",
        ("receive_dropped",), "a receive that ended counts or is dropped",
    ),
    Bug(
        "two-transfers-one-flag", "Two transfers of a page, and one flag for both",
        (issue(VLLM, 46240), pull(VLLM, 56089)), COUNT,
        "A request was being received and sent at once. A single flag said that a transfer was pending, so the first "
        "completion freed the pages and the second met a request that was gone.",
        "The start of a transfer to a peer is not counted with those that the block already has.",
        ("send:effect copies",), "count copies",
    ),
    Bug(
        "parked-requests-count", "Parked requests keep everybody else out",
        (issue(VLLM, 53130), pull(VLLM, 54348)), PROGRESS,
        "Requests that were set aside still counted against the number that may run, and nothing brought them back, so "
        "that admission stopped for ever.",
        "A request that was set aside and has given everything back never joins the waiting line again.",
        ("requeue",), "an empty retracted request waits again", requests=2,
    ),
    Bug(
        "host-copy-kept", "The host copy of an aborted request kept",
        (issue(SGLANG, 18701),), LOST,
        "A request was retracted to the host and aborted there; its pages on the host were never given back.",
        "A host page that is dropped does not come back to the empty ones.",
        ("drop_page:effect spare_pages",), "conservation of host pages", aside=("send", "receive"),
    ),
    Bug(
        "no-block-to-grow", "Decoding requests that all wait for one more block",
        (pull(TOKENSPEED, 1400),), PROGRESS,
        "The decode server admitted requests without keeping a block for their growth. When all of them needed one, "
        "none could go on and none gave way.",
        "No request can be made to give way to an older one.",
        ("retract",), "a younger request makes room for an older one", requests=2,
    ),
    Bug(
        "preemption-cascade", "One preemption after the other, and no memory",
        (issue(VLLM, 49674), issue(ASCEND, 16315)), PROGRESS,
        "Pages were returned only when the steps in flight were through. A preemption therefore freed nothing at the "
        "moment it was made, the scheduler looked for the next victim, and so on through all running requests.",
        "A request is retracted although a step in flight has a row of it, so that its blocks cannot be free at once.",
        ("retract:drained",), "a retraction frees something", requests=2,
    ),
    Bug(
        "slot-recycled-in-flight", "A request's slot reused while a step reads its row",
        (pull(SGLANG, 18803), issue(SGLANG, 18744)), RELEASE,
        "A slot of the request table was given to a new request while the forward pass in flight still read the old "
        "request's row of that table.",
        "A request record is recycled although a step still mentions it.",
        ("recycle:drained",), "no stale row",
    ),
    Bug(
        "freed-twice", "One slot freed on two paths",
        (pull(SGLANG, 12224), pull(JAX, 994)), COUNT,
        "Release was spread over several code paths; with overlap, the slot of one token was freed by two of them.",
        "A release does not ask whether the request holds the block.",
        ("release_owned:held",), "no use after free", requests=2,
    ),
    Bug(
        "end-token-counted", "The slot of the end token published as content",
        (issue(SGLANG, 24590), pull(SGLANG, 24745)), CACHE,
        "Under overlap the slot reserved for the token after the last one counted as committed, and was inserted into "
        "the prefix tree although nothing had been written there.",
        "A block is published before all of it is computed.",
        ("publish:written",), "shared block is computed",
    ),
    Bug(
        "chunk-shared-while-written", "A chunk in the tree while prefill still writes it",
        (issue(SGLANG, 38319), pull(SGLANG, 38355)), RELEASE,
        "A chunk of a prompt was inserted into the prefix tree while its prefill was in flight, and then freed by a "
        "retraction or an abort. (The threads were open.)",
        "A block is published while a step in flight writes it.",
        ("publish:written",), "no write to a shared block",
    ),
    Bug(
        "aborted-after-allocation", "Pages lost when a request in the decode queue was aborted",
        (pull(SGLANG, 9817), issue(SGLANG, 8587)), LOST,
        "A request was aborted after its pages were allocated and its prefix was transferred, and removed from the "
        "queue without returning them.",
        "A request is closed although it still holds blocks.",
        ("close:no blocks",), "dead request holds nothing",
    ),
    Bug(
        "transfer-counted-as-over", "Destination pages freed with the transfer in flight",
        (pull(SGLANG, 24578), pull(SGLANG, 35049), issue(SGLANG, 38961)), RELEASE,
        "An abort between prefill and decode servers freed the destination pages while the source was still writing; "
        "waiting for acknowledgements first left holes too.",
        "When the request has left, its transfer counts as over although the peer is still at work.",
        ("receive_dropped:engine idle",), "engines work on copies under way",
    ),
    Bug(
        "host-page-evicted-in-copy", "Host pages evicted during the copy back",
        (pull(SGLANG, 27631), pull(SGLANG, 28468), issue(SGLANG, 31427)), RELEASE,
        "Pages of the host tier were evicted to make room while a copy to or from the device was using them.",
        "A host page makes room without asking whether it is being copied.",
        ("drop_page:not being copied",), "a host page is dropped only when quiet",
    ),
    Bug(
        "chunk-repeated", "The same chunk of a prompt again and again",
        (issue(SGLANG, 36855), pull(SGLANG, 37024)), PROGRESS,
        "Chunked prefill advanced only by inserting into the prefix tree; where nothing was inserted, the same chunk "
        "was computed over and over until the pool was exhausted.",
        "Landing a row does not advance the number of computed tokens.",
        ("land_row:effect computed",), "tokens accounted for", aside=("receive", "abort"),
    ),
    Bug(
        "accepted-but-never-fits", "A request that is accepted and can never be admitted",
        (issue(SGLANG, 28530),), PROGRESS,
        "The check on admission and the allocator rounded to pages differently. A request of just the wrong length was "
        "taken out of the queue, refused and put back for ever, and everything behind it starved.",
        "A request is accepted without asking whether the pool is large enough for all that it may need.",
        ("submit:fits the pool",), "what was accepted can always be admitted again",
    ),
    Bug(
        "abort-lost", "An abort lost between two batches",
        (issue(SGLANG, 36876),), LOST,
        "An abort that arrived while one batch was being replaced by the next took no effect: the request went on "
        "decoding for nobody.",
        "The abort is taken and changes nothing.",
        ("abort:effect request_state",), "no idle transition",
    ),
    Bug(
        "sent-page-reused", "A page reused while it was being sent",
        (issue(TENSORRT, 12540), pull(TENSORRT, 12909), pull(TENSORRT, 14565)), RELEASE,
        "A request of the prefill server was terminated and its blocks unpinned while their transfer to the decode "
        "server was in progress.",
        "A block is freed without asking whether a peer still reads it.",
        ("release_owned:not being copied",), "copies touch no free block", aside=("receive", "abort"),
    ),
    Bug(
        "wrong-counter", "The wrong tier's counter changed",
        (issue(TENSORRT, 11879), pull(TENSORRT, 12834)), COUNT,
        "A block was claimed after a swap between tiers, and the free list and counter of the wrong tier were "
        "changed; the number of used blocks fell below zero.",
        "Giving out a block does not count it as no longer free.",
        ("allocate:effect free",), "conservation",
    ),
    Bug(
        "orphaned-page", "Pages orphaned by the order of two calls",
        (issue(TENSORRT, 12933), pull(TENSORRT, 15018)), LOST,
        "A sequence was removed before its blocks were stored for reuse, so that they belonged to nobody, and stale "
        "content was found later.",
        "The request lets go of a block, which stays private to nobody.",
        ("release_owned:effect block_state",), "owned block has its owner",
    ),
    Bug(
        "draft-beyond-capacity", "Drafts written past the end of the pages",
        (pull(TENSORRT, 16280),), RELEASE,
        "With overlap and several predicted tokens, the device wrote further than the capacity that the host had "
        "reserved.",
        "Tokens are planned without asking whether they fit the request's blocks.",
        ("decode:room",), "drafts in flight have room",
    ),
    Bug(
        "retraction-half-done", "A retraction that gave up half-way",
        (issue(TOKENSPEED, 767),), COUNT,
        "Retraction first moved device pages to the tree, then found the host tier too full and returned: half of the "
        "change had been made.",
        "A copy to the host begins without asking first whether the host page is empty. (Here a transition checks all "
        "guards before its first effect, so it cannot stop half-way.)",
        ("spill:host EMPTY",), "a host page keeps its tokens", aside=("send", "abort", "finish"),
    ),
    Bug(
        "failed-load-believed", "A load that moved no data counted as one that did",
        (issue(VLLM, 49250),), CACHE,
        "A connector rejected the load of a cached prefix. Recovery reported success, and yet the request went on as "
        "if the prefix had been there: its output was wrong.",
        "The end of a copy from the host counts as its success, without asking whether the copy failed.",
        ("fetch_done:arrived",), "a block holds what its name says",
    ),
    Bug(
        "failed-load-unreported", "Nobody told the scheduler which pages did not arrive",
        (issue(ASCEND, 10561),), CACHE,
        "Reading some pages from a remote pool could fail without the scheduler hearing which, so that requests went "
        "on with stale or half restored pages.",
        "A block whose copy failed becomes one that can be matched.",
        ("fetch_done:arrived",), "what did not arrive is never matched",
    ),
    Bug(
        "failed-store-never-ends", "A copy that failed and was never closed",
        (issue(VLLM, 19329),), LOST,
        "There was no way to detect that moving pages to or from an external store had failed, or to recover: the "
        "system could hang or answer from corrupt pages.",
        "A copy to the host that failed has no end: its page fills for ever and its block can never be evicted.",
        ("spill_failed",), "a spill that ended is closed",
    ),
    Bug(
        "grammar-blind", "A token sampled before the grammar had seen the one in front",
        (issue(VLLM, 54437),), UNSEEN,
        "With drafts and asynchronous scheduling, what a step had to report could be lost before the grammar saw it. "
        "The grammar then allowed every token, and output broke its schema without a word.",
        "The next token is planned although a step in flight still samples the one in front of it.",
        ("decode:last token seen",), "a grammar sees each token first",
    ),
)  # fmt: skip


__all__ = ["BUGS"]
