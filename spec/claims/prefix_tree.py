"""What holds of the prefix tree and of what is in it: P15, each explained by its sentence."""

from ..language.expressions import Expr, after
from ..machines.prefix_tree import (
    before,
    children,
    content,
    host_before,
    host_content,
    host_key,
    key,
    parent,
    parents,
    published,
    text,
)
from ..machines.vocabulary import *

# The tree: a child cached means its parent cached; only leaves leave.


@spec.safety("P15", b=Block)
def a_published_block_has_one_parent(b: Expr) -> Expr:
    """Every block that others can find has one place in the tree, and no other block has one."""
    return (published(b) >> (parents(b) == 1)) & (~published(b) >> (parents(b) == 0))


@spec.safety("P15", b=Block, p=Block)
def the_parent_of_a_published_block_is_published(b: Expr, p: Expr) -> Expr:
    """As long as a block can be found, so can the block that it continues."""
    return parent(b, p) >> (published(b) & published(p))


@spec.safety("P15", b=Block, p=Block)
def a_child_lies_a_page_behind_its_parent(b: Expr, p: Expr) -> Expr:
    """A block that starts a text is its own parent; any other lies exactly a page behind: there are no cycles."""
    start = (p == b) & (position(b) == 0)
    return parent(b, p) >> (start | ((p != b) & (position(p) + PAGE == position(b)) & (fill(p) == PAGE)))


@spec.safety("P15", b=Block)
def only_whole_published_blocks_have_children(b: Expr) -> Expr:
    """Only a whole page that others can find is continued by others; a partial tail is a leaf."""
    return (children(b) >= 1) >> (published(b) & (fill(b) == PAGE))


@spec.action("P15", b=Block)
def only_leaves_leave_the_tree(b: Expr) -> Expr:
    """A block stays findable as long as another continues it."""
    return (published(b) & ~after(published(b))) >> (children(b) == 0)


@spec.action("P15", b=Block, p=Block)
def a_block_keeps_its_place(b: Expr, p: Expr) -> Expr:
    """While a block can be found, it keeps its parent and the prefix that it stands for."""
    same = (after(key(b)) == key(b)) & (after(before(b)) == before(b)) & (after(parent(b, p)) | ~parent(b, p))
    return (published(b) & after(published(b))) >> same


@spec.safety("P15", r=Request, b=Block, p=Block)
def a_live_request_holds_a_path(r: Expr, b: Expr, p: Expr) -> Expr:
    """A request that waits or runs and holds a published block also holds the block that it continues."""
    return (live(r) & holds(r, b) & parent(b, p)) >> holds(r, p)


@spec.safety("P15", b=Block, p=Block)
def what_hangs_under_a_page_on_its_way_is_nobodys(b: Expr, p: Expr) -> Expr:
    """While a page is being fetched nobody holds what was fetched behind it, so it can go if the fetch fails."""
    return (parent(b, p) & (block_state(p) == B.FETCHING)) >> block_state(b).isin(B.CACHED, B.FETCHING)


# Names: what a block stands for, and what it really holds.


@spec.safety("P15", b=Block)
def a_published_block_has_a_name(b: Expr) -> Expr:
    """A block names a prefix exactly as long as others can find it."""
    named = (key(b) >= 1) & ((position(b) == 0) >> (before(b) == 0)) & (before(b) >= 0)
    return (published(b) >> named) & (~published(b) >> ((key(b) == 0) & (before(b) == 0)))


@spec.safety("P15", b=Block, p=Block)
def a_child_extends_its_parents_prefix(b: Expr, p: Expr) -> Expr:
    """The prefix in front of a block is the one that its parent stands for."""
    return (parent(b, p) & (p != b)) >> (before(b) == key(p))


@spec.safety("P15", b=Block)
def a_block_holds_what_its_name_says(b: Expr) -> Expr:
    """The KV in a block that can be matched is that of the prefix that it stands for."""
    nobodys = block_state(b).isin(B.FREE, B.LIMBO, B.FETCHING) >> (content(b) == 0)
    return (block_state(b).isin(B.SHARED, B.CACHED) >> (content(b) == key(b))) & nobodys


@spec.safety("P15", r=Request, b=Block)
def a_request_reads_its_own_prefix(r: Expr, b: Expr) -> Expr:
    """Every block in a request's table holds the KV of the request's own tokens, whoever computed it."""
    return (holds(r, b) >> (content(b) == text(r, b))) & (~holds(r, b) >> (text(r, b) == 0))


@spec.safety("P15", h=Host)
def a_host_page_holds_what_its_name_says(h: Expr) -> Expr:
    """A valid host page holds the KV of the prefix that it stands for; an empty one stands for none."""
    named = (host_key(h) >= 1) & ((host_position(h) == 0) >> (host_before(h) == 0)) & (host_before(h) >= 0)
    nothing = (host_key(h) == 0) & (host_before(h) == 0)
    used = host_state(h) != H.EMPTY
    right = (host_state(h) == H.VALID) >> (host_content(h) == host_key(h))
    unfilled = (host_state(h) != H.VALID) >> (host_content(h) == 0)
    return (used >> named) & (~used >> nothing) & right & unfilled


@spec.safety("P15", c=Copy, b=Block, h=Host)
def a_pair_stands_for_the_same_prefix(c: Expr, b: Expr, h: Expr) -> Expr:
    """A block and the host page that it is copied to or from have the same name."""
    return (block_of(c, b) & host_of(c, h)) >> ((host_key(h) == key(b)) & (host_before(h) == before(b)))
