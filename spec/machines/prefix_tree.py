"""The prefix tree: which published block continues which, and whose text each of them stands for.

A block is *published* while others can find it: SHARED, CACHED, or FETCHING from the host. Published blocks form a
forest. Each stands for a prefix of some text and has a `parent`, the block with the page in front of its own; the block
at the start of a text is its own parent. A child lies exactly one page behind its parent, so there are no cycles, and
from any published block the parents lead to the start of its text. Only whole pages have children; a kept tail is a
leaf. Only leaves leave the tree, so whatever can be found can also be reached.

A prefix is named by a key, a number that the driver derives from the tokens (equal keys are taken for equal tokens;
0 names nothing). A key names the whole prefix and not only its last page. To match a block is to compare one key and to
hold the block's parent; requests that run therefore hold a whole path of the tree.

Host pages form no tree. A page is named by the keys of its own prefix and of the one before it, not by blocks, so it
may outlive its parent on the device and on the host. It is fetched under any published block that stands for the prefix
before it, so parents first; the parent may still be on its way. A page whose parent is nowhere stays until it is
dropped, which is harmless.
"""

from ..language.expressions import BOOL, Expr
from ..language.spec import Transition
from .bounds import NAME
from .vocabulary import *

key = spec.variable("key", Block, of=NAME, doc="names the prefix that ends with the block; 0 unless it is published")
before = spec.variable("before", Block, of=NAME, doc="names the prefix in front of the block; 0: the empty one")
parent = spec.variable(
    "parent", Block, Block, of=BOOL, one=True,
    doc="the block that it continues in the tree; at the start of a text, itself",
)  # fmt: skip
host_key = spec.variable("host_key", Host, of=NAME, doc="names the prefix that ends with the page")
host_before = spec.variable("host_before", Host, of=NAME, doc="names the prefix in front of the page")

children = spec.count(
    "children", Block, over=Block, of=lambda c, b: parent(c, b) & (b != c),
    doc="other published blocks that continue the block",
)  # fmt: skip
parents = spec.count(
    "parents", Block, over=Block, of=lambda p, b: parent(b, p), ghost=True, doc="blocks that the block continues"
)

# Ghosts: what memory really holds, and what each request's own tokens are.
content = spec.variable(
    "content", Block, of=NAME, ghost=True, doc="names the prefix whose KV the block had at first; 0: nobody's yet"
)
host_content = spec.variable(
    "host_content", Host, of=NAME, ghost=True, doc="names the prefix whose KV the page really has; 0: none"
)
text = spec.variable(
    "text", Request, Block, of=NAME, ghost=True, doc="names its own prefix up to the block's end; 0: not looked up"
)


@spec.definition(b=Block)
def published(b: Expr) -> Expr:
    """The block is in the tree."""
    return block_state(b).isin(B.SHARED, B.CACHED, B.FETCHING)


@spec.definition(r=Request, b=Block, p=Block)
def continues(r: Expr, b: Expr, p: Expr) -> Expr:
    """In the request's table, `p` is the shared block in front of `b`, or `b` itself at the start of the text."""
    in_front = holds(r, p) & (block_state(p) == B.SHARED) & (position(p) + PAGE == position(b))
    return ((position(b) == 0) & (p == b)) | in_front


def hang(t: Transition, b: Expr, p: Expr, name: Expr, previous: Expr) -> None:
    """Effects: the block enters the tree under its parent."""
    t.join(parent[b, p])
    t.set(key[b], name)
    t.set(before[b], previous)


def offer(t: Transition, r: Expr, b: Expr, p: Expr, name: Expr) -> None:
    """Guards and effects: a request's written block can be found under the name of the request's own prefix."""
    t.guard("continues what is published", continues(r, b, p))
    hang(t, b, p, name, key(p))
    t.set(content[b], name)


def unhang(t: Transition, b: Expr, p: Expr) -> None:
    """Effects: a leaf leaves the tree."""
    t.leave(parent[b, p])
    t.set(key[b], 0)
    t.set(before[b], 0)


def prune_leaf(t: Transition, b: Expr, p: Expr) -> None:
    """Guards and effects: a leaf leaves the tree."""
    t.guard("its parent", parent(b, p))
    t.guard("leaf", children(b) == 0)
    unhang(t, b, p)


def recognise(t: Transition, r: Expr, b: Expr, p: Expr, name: Expr) -> None:
    """Guards and effects: the block is the next one of a request's own prefix, and the request holds the one before."""
    t.guard("own prefix", key(b) == name)
    t.guard("holds what is in front", parent(b, p) & ((p == b) | holds(r, p)))
    t.set(text[r, b], name)


def hang_fetched(t: Transition, b: Expr, h: Expr, p: Expr) -> None:
    """Guards and effects: a block that is fetched enters the tree under a block with the prefix before the page."""
    stands_before = published(p) & (fill(p) == PAGE) & (key(p) == host_before(h))
    next_to_it = position(p) + PAGE == host_position(h)
    t.guard("parent is published", ((host_position(h) == 0) & (p == b)) | (stands_before & next_to_it))
    hang(t, b, p, host_key(h), host_before(h))
