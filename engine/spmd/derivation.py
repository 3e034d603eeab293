"""From laws to placements: what each rank's run of a module computes, given the slices that it holds.

How an operation is placed follows from its laws (`tokenspeed verify spmd` proves it), and what they do not allow is
refused: a norm of a sum that is still owed, a product of columns with other rows of a weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final

from .contract import Module, Op, Value
from .mesh import Extent, Groups, Mesh, PlacementError, alone
from .placements import Once


class Rule(Enum):
    """What must hold for a plan to equal one device. `tokenspeed verify spmd` leaves out each in turn, to show that a
    wrong plan would then pass."""

    WHOLE_REQUEST = "attention sees all rows of a request, in order"
    PAIRED_HEADS = "a query head attends to the keys and values of its own group"
    MATCHED_COLUMNS = "the columns of a value are the inputs of the weight that they meet"
    MATCHED_EXPERTS = "the matrices of an expert are cut alike"
    ALL_COLUMNS = "a function of a row sees all its columns"
    OWED_IS_LINEAR = "only linear operations pass on a sum that is owed"
    EACH_PART_ONCE = "no part of a sum is counted twice"
    EACH_PART = "no part of a sum is missing"
    SAME_CALL = "ranks that meet in a collective make the same call with as many rows"
    SAME_RANKS = "they agree on who takes part"
    ALL_TAKE_PART = "each of them comes, however little it has to do"
    ALL_LOGITS = "a sampler sees the logits of the whole vocabulary"


NO_RULES: Final[frozenset[Rule]] = frozenset()

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


@dataclass(frozen=True)
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

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """What each rank computes without names and sizes: equal for modules that a plan cannot tell apart."""
        names = list(dict.fromkeys(name for value in self.local for name, _ in value.terms))
        edges: dict[tuple[str, str], list[int]] = {}
        for value in self.local:
            for name, box in value.terms:
                for dimension, start, stop, size in box:
                    edges.setdefault((name, dimension), [0, size]).extend((start, stop))
        place = {key: {edge: i for i, edge in enumerate(sorted(set(found)))} for key, found in edges.items()}
        columns = sorted({edge for v in self.local for edge in (0, v.columns.start, v.columns.stop, v.width)})
        return tuple(
            (
                tuple(columns.index(edge) for edge in (v.columns.start, v.columns.stop, v.width)),
                tuple(
                    (names.index(name), tuple((d, *(place[name, d][e] for e in (a, b, n))) for d, a, b, n in box))
                    for name, box in v.terms
                ),
            )
            for v in self.local
        )


Known = dict[tuple[int, int, tuple[Extent, ...], Groups, frozenset[Rule]], tuple[Module, Derived]]
"""Derived modules. A result depends on the axes that split the module, on the world and on who serves a request."""


class Derivation:
    """Places operations on one mesh. `ignored`: rules that are left out, to see what they are good for."""

    def __init__(
        self, mesh: Mesh, attention: Groups, ignored: frozenset[Rule] = NO_RULES, known: Known | None = None
    ) -> None:
        """`attention`: groups of ranks that serve the same requests. `known`: what is derived already, kept up to date;
        it may be shared between meshes."""
        self.mesh = mesh
        self.attention = attention
        self.ignored = ignored
        self._known: Known = {} if known is None else known

    def derive(self, module: Module) -> Derived:
        """Raises PlacementError naming the module, the operation, the rank, and the wanted and found placement."""
        extents = tuple(self.mesh.axes[axis] for axis in module.axes)
        key = (id(module), self.mesh.world, extents, self.attention, self.ignored)
        known = self._known.get(key)
        if known is None:  # the module is kept, so that its id stays its own
            known = self._known[key] = (module, self._derive(module))
        return known[1]

    def alone(self) -> "Derivation":
        """The same for a single device."""
        mesh = Mesh(1, {axis: Extent(1, 1) for axis in self.mesh.axes})
        return Derivation(mesh, alone(1), self.ignored, self._known)

    def _derive(self, module: Module) -> Derived:
        local = []
        for rank in range(self.mesh.world):
            try:
                local.append(self._run(module, rank))
            except PlacementError as error:
                raise PlacementError(f"{module.name}, rank {rank}: {error}") from error
        groups = self.mesh.groups(module.axes) if module.axes else alone(self.mesh.world)
        rows: Groups | None = groups if groups.size > 1 else None
        if module.needs_whole_requests and Rule.WHOLE_REQUEST not in self.ignored:
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

    def _run(self, module: Module, rank: int) -> Local:
        done: dict[int, Local] = {}
        for node in module.nodes:
            arguments = tuple(done[id(argument)] for argument in node.arguments)
            slices = tuple(weight.slices(self.mesh, rank) for weight in node.weights)
            try:
                done[id(node)] = PLACE[node.op](Placed(node, arguments, slices, self.ignored))
            except PlacementError as error:
                raise PlacementError(f"{node.label}: {error}") from error
        return done[id(module.output)]


@dataclass(frozen=True, slots=True)
class Placed:
    """An operation as one rank runs it: on these values, with these slices of its weights."""

    node: Value
    arguments: tuple[Local, ...]
    slices: tuple[tuple[range, ...], ...]
    ignored: frozenset[Rule]

    def ask(self, rule: Rule, holds: bool, message: Callable[[], str]) -> None:
        """Raises PlacementError if `rule` does not hold."""
        if not holds and rule not in self.ignored:
            raise PlacementError(message())

    def ask_whole(self, value: Local, what: str) -> None:
        """Only linear operations take a value whose sum is owed."""
        self.ask(
            Rule.OWED_IS_LINEAR,
            value.whole,
            lambda: f"wanted {what} of a whole value, found a sum that is owed: {_describe(value.terms)}",
        )

    def ask_all_columns(self, value: Local, what: str) -> None:
        """A function of a row needs every column."""
        self.ask(
            Rule.ALL_COLUMNS,
            value.all_columns,
            lambda: f"wanted {what} of all {value.width} columns, found columns {_range(value.columns)}",
        )

    def terms(self) -> Terms:
        """The result as a term: whole, as the arguments are; if they may be owed, as much of it as of them."""
        boxes = [box for argument in self.arguments for _, box in argument.terms if box]
        return ((self.node.label, boxes[0] if boxes else ()),)

    def ask_replicated(self) -> None:
        """Weights of an operation that is no product are whole on every rank."""
        for weight, held in zip(self.node.weights, self.slices, strict=True):
            if held != tuple(range(n) for n in weight.shape):
                raise PlacementError(f"wanted {weight.name} whole on every rank, found it split; place it Replicated")


def _describe(terms: Terms) -> str:
    return " + ".join(name + box_text(box) for name, box in terms)


def box_text(box: Box) -> str:
    """A part of a sum in words."""
    return "".join(f" [{dimension} {start}:{stop} of {size}]" for dimension, start, stop, size in box)


def _range(r: range) -> str:
    return f"{r.start}:{r.stop}"


def _cut(dimension: str, held: range, size: int) -> Box:
    return () if held == range(size) else ((dimension, held.start, held.stop, size),)


def _rows(op: Placed) -> Local:
    return Local(op.node.width, range(op.node.width), (("x", ()),))


def _embed(op: Placed) -> Local:
    ids, columns = op.slices[0]
    return Local(op.node.width, columns, ((op.node.label, _cut("token id", ids, op.node.weights[0].shape[0])),))


def _linear(op: Placed) -> Local:
    (x,) = op.arguments
    weight = op.node.weights[0]
    out, into = op.slices[0]
    op.ask(
        Rule.MATCHED_COLUMNS,
        x.columns == into,
        lambda: (
            f"wanted columns {_range(into)} of {x.width}, which are the rank's part of the weight, "
            f"found columns {_range(x.columns)}"
        ),
    )
    box = _cut("input", into, weight.shape[1])
    inherited = [part for _, part in x.terms if part]
    if inherited and (box or len(x.terms) > 1):
        op.ask_whole(x, "a product with a split weight")
    terms: Terms = ((op.node.label, box or (inherited[0] if inherited else ())),)
    if len(op.node.weights) == 2:
        terms += _bias(op, out, owed=bool(terms[0][1]))
    return Local(op.node.width, out, terms)


def _bias(op: Placed, out: range, *, owed: bool) -> Terms:
    """A bias is one more term of the sum: if one is owed, a single rank holds it, and it is its only part."""
    bias, held = op.node.weights[1], op.slices[1][0]
    if not owed:
        if held != out:
            raise PlacementError(f"wanted {bias.name} split like the output, {_range(out)}, found {_range(held)}")
        return ((bias.name, ()),)
    if not isinstance(bias.placement, Once):
        raise PlacementError(f"{bias.name} would be added by every rank of a sum that is owed; place it Once")
    return ((bias.name, (("holder", 0, 1 if held else 0, 1),)),)


def _add(op: Placed) -> Local:
    left, right = op.arguments
    op.ask(
        Rule.MATCHED_COLUMNS,
        left.columns == right.columns,
        lambda: f"wanted the same columns, found {_range(left.columns)} and {_range(right.columns)}",
    )
    if left.whole != right.whole:
        owed, other = (right, left) if left.whole else (left, right)
        raise PlacementError(
            f"{_describe(other.terms)} is whole on every rank and {_describe(owed.terms)} is owed: their sum would "
            "count the former once for each rank; split its weights over the same axes"
        )
    return Local(op.node.width, left.columns, left.terms + right.terms)


def _scaled(op: Placed) -> Local:
    x = op.arguments[0]
    for factor in op.arguments[1:]:
        op.ask_whole(factor, "a factor")
        op.ask_all_columns(factor, "a factor")
    return Local(op.node.width, x.columns, tuple((f"{op.node.label} {name}", box) for name, box in x.terms))


def _pointwise(op: Placed) -> Local:
    node, first = op.node, op.arguments[0]
    a, b, width = first.columns.start, first.columns.stop, first.width
    for argument in op.arguments:
        op.ask_whole(argument, node.label)
        there = argument.columns
        op.ask(
            Rule.MATCHED_COLUMNS,
            (there.start * width, there.stop * width) == (a * argument.width, b * argument.width),
            lambda there=there, argument=argument: (  # type: ignore[misc]
                f"wanted the same columns of every argument, found {a}:{b} of {width} "
                f"and {_range(there)} of {argument.width}"
            ),
        )
    op.ask_replicated()
    if a * node.width % width or b * node.width % width:
        raise PlacementError(f"columns {a}:{b} of {width} are no whole columns of a result {node.width} wide")
    return Local(node.width, range(a * node.width // width, b * node.width // width), op.terms())


def _whole_row(op: Placed) -> Local:
    for argument in op.arguments:
        op.ask_whole(argument, op.node.label)
        op.ask_all_columns(argument, op.node.label)
    op.ask_replicated()
    return Local(op.node.width, range(op.node.width), op.terms())


def _attend(op: Placed) -> Local:
    node = op.node
    q, k, v, *shared = op.arguments
    assert node.heads is not None
    heads, kv_heads = node.heads.heads, node.heads.kv_heads
    for value in op.arguments:
        op.ask_whole(value, "attention")
    for value in shared:
        op.ask_all_columns(value, "attention")
    mine, held, values = _heads(q, heads), _heads(k, kv_heads), _heads(v, kv_heads)
    here = len(mine) // len(held) if len(mine) % len(held) == 0 else 0
    paired = held == values and here > 0
    op.ask(
        Rule.PAIRED_HEADS,
        paired and all(held.start + i // here == head // (heads // kv_heads) for i, head in enumerate(mine)),
        lambda: (
            f"wanted the keys and values that query heads {_range(mine)} of {heads} attend to, "
            f"{heads // kv_heads} to each of {kv_heads}; found keys {_range(held)} and values {_range(values)}"
        ),
    )
    for weight, part in zip(node.weights, op.slices, strict=True):
        op.ask(
            Rule.PAIRED_HEADS,
            part[0] == mine,
            lambda weight=weight, part=part: (  # type: ignore[misc]
                f"wanted {weight.name} of heads {_range(mine)}, found {_range(part[0])}"
            ),
        )
    width = node.width // heads
    return Local(node.width, range(mine.start * width, mine.stop * width), ((node.label, ()),))


def _heads(value: Local, heads: int) -> range:
    width, rest = divmod(value.width, heads)
    if rest or value.columns.start % width or value.columns.stop % width or not value.columns:
        raise PlacementError(f"columns {_range(value.columns)} of {value.width} are not whole heads out of {heads}")
    return range(value.columns.start // width, value.columns.stop // width)


def _experts(op: Placed) -> Local:
    x, routing = op.arguments
    for value in (x, routing):
        op.ask_whole(value, "experts")
        op.ask_all_columns(value, "experts")
    *up, down = op.slices
    held, out, width = down
    for part in up:
        op.ask(
            Rule.MATCHED_EXPERTS,
            part[:2] == (held, width),
            lambda part=part: (  # type: ignore[misc]
                f"wanted experts {_range(held)}, width {_range(width)}, of every matrix, "
                f"found experts {_range(part[0])}, width {_range(part[1])}"
            ),
        )
        if part[2] != x.columns:
            raise PlacementError(f"wanted columns {_range(part[2])}, found {_range(x.columns)}")
    experts, _, size = op.node.weights[-1].shape
    whole = held == range(experts) and width == range(size)
    box: Box = (("expert", held.start, held.stop, experts), ("width", width.start, width.stop, size))
    return Local(op.node.width, out, ((op.node.label, () if whole else box),))


PLACE: Final[dict[Op, Callable[[Placed], Local]]] = {
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
"""How each operation is placed."""
