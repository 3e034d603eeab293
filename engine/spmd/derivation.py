"""From laws to placements: what each rank's run of a module computes, given the slices that it holds.

Every operation has one rule. A rule follows from the operation's laws (proved by `tokenspeed verify spmd`), and it
refuses what they do not allow: a norm of a sum that is still owed, a product whose columns are not the weight's rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .contract import Law, Module, Op, Value
from .mesh import Groups, Mesh, PlacementError, alone
from .placements import Weight

Box = tuple[tuple[str, int, int, int], ...]
"""Part of a sum: for each dimension that is summed over its name, the range [start, stop) that is held, its size."""
Terms = tuple[tuple[str, Box], ...]
"""A sum of terms by name; a term with an empty box is whole."""


@dataclass(frozen=True, slots=True)
class Local:
    """A value as one rank holds it: its columns [start, stop) of `width`, and the terms of it that are here."""

    width: int
    columns: range
    terms: Terms

    @property
    def all_columns(self) -> bool:
        """Whether no column is missing."""
        return self.columns == range(self.width)

    @property
    def whole(self) -> bool:
        """Whether no sum is owed."""
        return all(not box for _, box in self.terms)


@dataclass(frozen=True, slots=True)
class Derived:
    """A module on a mesh: on whose rows it runs, over whom its output is owed, and what each rank computes."""

    rows: Groups | None
    """Every rank runs on the rows of its group; None if the module may run on any rows."""
    owed: Groups | None
    """Over whose ranks the output is to be summed; None if it is whole."""
    split: Groups | None
    """Over whose ranks the output's columns are split; None if every rank has all of them."""
    local: tuple[Local, ...]
    """The output of each rank."""


class Derivation:
    """Applies the rules of all operations on one mesh. `ignored`: laws that are taken not to matter (to test them)."""

    def __init__(self, mesh: Mesh, attention: Groups, ignored: frozenset[Law] = frozenset()) -> None:
        """`attention`: groups of ranks that serve the same requests."""
        self.mesh = mesh
        self.attention = attention
        self.ignored = ignored
        self._known: dict[Module, Derived] = {}

    def derive(self, module: Module) -> Derived:
        """Raises PlacementError naming the module, the operation, the rank, and the wanted and found placement."""
        if module not in self._known:
            self._known[module] = self._derive(module)
        return self._known[module]

    def _derive(self, module: Module) -> Derived:
        local = []
        for rank in range(self.mesh.world):
            try:
                local.append(self._run(module.output, rank))
            except PlacementError as error:
                raise PlacementError(f"{module.name}, rank {rank}: {error}") from error
        groups = self.mesh.groups(module.axes) if module.axes else alone(self.mesh.world)
        rows: Groups | None = groups if groups.size > 1 else None
        if module.needs_whole_requests and Law.WHOLE_REQUEST not in self.ignored:
            if not groups.refines(self.attention):
                raise PlacementError(
                    f"{module.name} needs all rows of a request, which ranks {self.attention} hold, "
                    f"but its weights are split over {groups}; use --tp for both"
                )
            rows = self.attention
        return Derived(
            rows=rows,
            owed=None if all(value.whole for value in local) else groups,
            split=None if all(value.all_columns for value in local) else groups,
            local=tuple(local),
        )

    def _run(self, output: Value, rank: int) -> Local:
        done: dict[int, Local] = {}
        for node in output.nodes():
            arguments = tuple(done[id(argument)] for argument in node.arguments)
            slices = tuple(weight.slices(self.mesh, rank) for weight in node.weights)
            try:
                done[id(node)] = RULES[node.op](node, arguments, slices)
            except PlacementError as error:
                raise PlacementError(f"{node.label}: {error}") from error
        return done[id(output)]


Slices = tuple[range, ...]


def _ask_whole(value: Local, what: str, *, columns: bool) -> None:
    if not value.whole:
        raise PlacementError(f"wanted {what} of a whole value, found one whose sum is owed: {_describe(value.terms)}")
    if columns and not value.all_columns:
        raise PlacementError(f"wanted {what} of all {value.width} columns, found {_range(value.columns)}")


def _describe(terms: Terms) -> str:
    return " + ".join(name + "".join(f"[{d} {a}:{b} of {n}]" for d, a, b, n in box) for name, box in terms)


def _range(r: range) -> str:
    return f"{r.start}:{r.stop}"


def _cut(dimension: str, held: range, size: int) -> Box:
    return () if held == range(size) else ((dimension, held.start, held.stop, size),)


def _rows(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    return Local(node.width, range(node.width), (("x", ()),))


def _embed(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    ids, columns = slices[0]
    return Local(node.width, columns, ((node.label, _cut("token id", ids, node.weights[0].shape[0])),))


def _linear(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    (x,) = arguments
    weight: Weight = node.weights[0]
    out, into = slices[0]
    if x.columns != into:
        raise PlacementError(
            f"wanted columns {_range(into)} of {x.width}, which are the rank's part of {weight.name}, "
            f"found {_range(x.columns)}"
        )
    if not x.whole and into != range(weight.shape[1]):
        raise PlacementError(f"wanted a whole value to multiply with a split weight, found {_describe(x.terms)}")
    box = _cut("input", into, weight.shape[1])
    inherited = [box for _, box in x.terms if box]
    terms: Terms = ((node.label, box or (inherited[0] if inherited else ())),)
    if len(inherited) > 1:
        raise PlacementError(f"wanted at most one owed term, found {_describe(x.terms)}")
    if len(node.weights) == 2:
        terms += _bias(node, out, slices[1][0], owed=bool(terms[0][1]))
    return Local(node.width, out, terms)


def _bias(node: Value, out: range, held: range, *, owed: bool) -> Terms:
    """A bias is one more term of the sum: if a sum is owed, just one rank may hold it, and it is its only part."""
    name = node.weights[1].name
    if not owed and held != out:
        raise PlacementError(f"wanted the bias {name} split like the output, {_range(out)}, found {_range(held)}")
    if owed and len(held) not in (0, node.width):
        raise PlacementError(f"wanted the bias {name} on one rank of the sum, found {_range(held)}")
    from .placements import Once

    if owed and not isinstance(node.weights[1].placement, Once):
        raise PlacementError(f"the bias {name} would be added by every rank of a sum that is owed; place it Once")
    return ((name, (("holder", 0, 1 if held else 0, 1),) if owed else ()),)


def _add(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    left, right = arguments
    if left.columns != right.columns:
        raise PlacementError(f"wanted the same columns, found {_range(left.columns)} and {_range(right.columns)}")
    if left.whole != right.whole:
        owed, other = (right, left) if left.whole else (left, right)
        raise PlacementError(
            f"{_describe(other.terms)} is whole on every rank and {_describe(owed.terms)} is owed: "
            "their sum would count the former once for each rank; split its weights over the same axes"
        )
    return Local(node.width, left.columns, left.terms + right.terms)


def _scaled(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    x = arguments[0]
    for factor in arguments[1:]:
        _ask_whole(factor, "a factor", columns=True)
    return Local(node.width, x.columns, tuple((f"{node.label} {name}", box) for name, box in x.terms))


def _pointwise(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    first = arguments[0]
    for argument in arguments:
        _ask_whole(argument, node.label, columns=False)
        scale = argument.width / first.width
        if (argument.columns.start, argument.columns.stop) != (first.columns.start * scale, first.columns.stop * scale):
            raise PlacementError(
                f"wanted the same columns of every argument, found {_range(first.columns)} of {first.width} "
                f"and {_range(argument.columns)} of {argument.width}"
            )
    _ask_replicated(node, slices)
    a, b, width = first.columns.start, first.columns.stop, first.width
    if a * node.width % width or b * node.width % width:
        raise PlacementError(f"columns {a}:{b} of {width} are no whole columns of a result {node.width} wide")
    return Local(node.width, range(a * node.width // width, b * node.width // width), ((node.label, ()),))


def _ask_replicated(node: Value, slices: tuple[Slices, ...]) -> None:
    for weight, held in zip(node.weights, slices, strict=True):
        if held != tuple(range(n) for n in weight.shape):
            raise PlacementError(f"{weight.name} must be replicated")


def _whole_row(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    for argument in arguments:
        _ask_whole(argument, node.label, columns=True)
    _ask_replicated(node, slices)
    return Local(node.width, range(node.width), ((node.label, ()),))


def _attend(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    q, k, v, *shared = arguments
    assert node.heads is not None
    for value in (q, k, v):
        _ask_whole(value, "attention", columns=False)
    for value in shared:
        _ask_whole(value, "attention", columns=True)
    heads, kv_heads = node.heads.heads, node.heads.kv_heads
    mine = _head_range(q, heads)
    if _head_range(k, kv_heads) != _head_range(v, kv_heads):
        raise PlacementError(
            f"wanted keys and values of the same heads, found {_range(k.columns)}, {_range(v.columns)}"
        )
    held = _head_range(k, kv_heads)
    per_head, here = heads // kv_heads, len(mine) // len(held) if len(mine) % len(held) == 0 else 0
    for place, head in enumerate(mine):
        if not here or held.start + place // here != head // per_head:
            raise PlacementError(
                f"query head {head} attends to keys of head {head // per_head}; "
                f"queries {_range(mine)} and keys {_range(held)} do not pair it so"
            )
    for weight, part in zip(node.weights, slices, strict=True):
        if part[0] != mine:
            raise PlacementError(f"wanted {weight.name} of heads {_range(mine)}, found {_range(part[0])}")
    width = node.width // heads
    return Local(node.width, range(mine.start * width, mine.stop * width), ((node.label, ()),))


def _head_range(value: Local, heads: int) -> range:
    width, rest = divmod(value.width, heads)
    if rest or value.columns.start % width or value.columns.stop % width or not value.columns:
        raise PlacementError(f"columns {_range(value.columns)} of {value.width} are not whole heads out of {heads}")
    return range(value.columns.start // width, value.columns.stop // width)


def _experts(node: Value, arguments: tuple[Local, ...], slices: tuple[Slices, ...]) -> Local:
    x, routing = arguments
    _ask_whole(x, "experts", columns=True)
    _ask_whole(routing, "experts", columns=True)
    *up, down = slices
    held, out, width = down
    for part in up:
        if part[0] != held or part[1] != width or part[2] != range(x.width):
            raise PlacementError(
                f"the parts of the experts' weights differ: experts {_range(part[0])} and {_range(held)}, "
                f"width {_range(part[1])} and {_range(width)}"
            )
    experts, size = node.weights[-1].shape[0], node.weights[-1].shape[2]
    box: Box = ()
    if held != range(experts) or width != range(size):
        box = (("expert", held.start, held.stop, experts), ("width", width.start, width.stop, size))
    return Local(node.width, out, ((node.label, box),))


RULES: Final[dict[Op, Callable[[Value, tuple[Local, ...], tuple[Slices, ...]], Local]]] = {
    Op.ROWS: _rows,
    Op.EMBED: _embed,
    Op.LINEAR: _linear,
    Op.ADD: _add,
    Op.SCALED: _scaled,
    Op.POINTWISE: _pointwise,
    Op.WHOLE_ROW: _whole_row,
    Op.ATTEND: _attend,
    Op.EXPERTS: _experts,
}
"""One rule for each operation."""
