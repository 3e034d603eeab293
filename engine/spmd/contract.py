"""What a model file declares: an ordered stack of modules, their weights with placements, and what each computes.

A module's output is written down with the operations below. They compute nothing: they state laws (see `Law`), from
which the compiler derives on which rows the module must run and which sums its output owes. A Llama layer is::

    x = rows(hidden)
    heads = Heads(TENSOR, config.num_heads, config.num_kv_heads)
    kv = replace(heads, kv=True)
    q = pointwise("rope", linear(x, Weight(p + "q_proj.weight", (q_size, hidden), heads)))
    k = pointwise("rope", linear(x, Weight(p + "k_proj.weight", (kv_size, hidden), kv)))
    v = linear(x, Weight(p + "v_proj.weight", (kv_size, hidden), kv))
    o = Weight(p + "o_proj.weight", (hidden, q_size), replace(heads, dim=1))
    attention = Module(name, "attention", linear(attend(q, k, v, heads), o), Cache(2 * head_dim, kv_heads, kv))

    gate = linear(x, Weight(p + "gate_proj.weight", (width, hidden), Column(DENSE)))
    up = linear(x, Weight(p + "up_proj.weight", (width, hidden), Column(DENSE)))
    down = Weight(p + "down_proj.weight", (hidden, width), Row(DENSE))
    mlp = Module(name, "mlp", linear(pointwise("silu_mul", gate, up), down))

    Block(Weight(p + "input_layernorm.weight", (hidden,)), attention)

and nothing in it says where a collective goes: `Row` after `Column` owes a sum, and the compiler pays it.

`kind` names the code that runs the module: a callable that takes its rows [rows, hidden] and the step, holds the rank's
slices of `module.weights`, and returns this rank's term of the output. It holds no collective and no rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from .mesh import Mesh
from .placements import Heads, Placement, Weight


class Law(Enum):
    """What an operation promises. Placement rules follow from these alone; `tokenspeed verify spmd` proves them."""

    ROW_WISE = "a row of the result depends on that row of the arguments only"
    LINEAR = "the result for a sum is the sum of the results"
    CONTRACTS = "the result is a sum over a dimension that argument and weight share"
    COLUMN_WISE = "a column of the result depends on that column of the arguments only"
    HEAD_WISE = "a head of the result depends on that head and on the keys and values that it attends to"
    WHOLE_REQUEST = "a row of the result depends on all rows of its request"


class Op(Enum):
    """The operations, each with its laws."""

    ROWS = ("rows", ())
    EMBED = ("embed", (Law.ROW_WISE, Law.CONTRACTS))
    LINEAR = ("linear", (Law.ROW_WISE, Law.LINEAR, Law.CONTRACTS))
    ADD = ("add", (Law.ROW_WISE, Law.LINEAR))
    SCALED = ("scaled", (Law.ROW_WISE, Law.LINEAR))
    POINTWISE = ("pointwise", (Law.ROW_WISE, Law.COLUMN_WISE))
    WHOLE_ROW = ("whole_row", (Law.ROW_WISE,))
    ATTEND = ("attend", (Law.WHOLE_REQUEST, Law.HEAD_WISE))
    EXPERTS = ("experts", (Law.ROW_WISE, Law.CONTRACTS))

    def __init__(self, label: str, laws: tuple[Law, ...]) -> None:
        self.label = label
        self.laws = laws


@dataclass(frozen=True, slots=True)
class Value:
    """A node of a module's dataflow: an operation, what it is applied to, and the width of its result."""

    op: Op
    label: str
    width: int
    arguments: tuple["Value", ...] = ()
    weights: tuple[Weight, ...] = ()
    heads: Heads | None = None

    def nodes(self) -> Iterator["Value"]:
        """This node and all below it, arguments first; a shared node once."""
        seen: set[int] = set()

        def walk(node: Value) -> Iterator[Value]:
            if id(node) in seen:
                return
            seen.add(id(node))
            for argument in node.arguments:
                yield from walk(argument)
            yield node

        return walk(self)


def rows(hidden: int) -> Value:
    """The module's input: rows of the normed stream, all columns."""
    return Value(Op.ROWS, "rows", hidden)


def embed(weight: Weight) -> Value:
    """Rows of `weight` [token ids, hidden] by token id; an id that a rank does not hold gives it a row of zeros."""
    return Value(Op.EMBED, "embed", weight.shape[1], weights=(weight,))


def linear(x: Value, weight: Weight, bias: Weight | None = None) -> Value:
    """x @ weight.T + bias. A bias on a sum that is owed is placed `Once`; beside split columns it is split likewise."""
    return Value(Op.LINEAR, weight.name, weight.shape[0], (x,), (weight,) if bias is None else (weight, bias))


def add(left: Value, right: Value) -> Value:
    """left + right, both whole or both owed over the same ranks."""
    return Value(Op.ADD, "add", left.width, (left, right))


def scaled(x: Value, factor: Value | None = None, label: str = "scaled") -> Value:
    """x times a constant, or times one number a row (`factor`, of width 1)."""
    return Value(Op.SCALED, label, x.width, (x,) if factor is None else (x, factor))


def pointwise(label: str, *arguments: Value, width: int | None = None, weights: tuple[Weight, ...] = ()) -> Value:
    """A function of each column by itself (or each head: rotary embedding, norms of queries and keys).

    Arguments have the same columns, split alike. `weights` are replicated.
    """
    return Value(Op.POINTWISE, label, width or arguments[0].width, arguments, weights)


def whole_row(label: str, *arguments: Value, width: int, weights: tuple[Weight, ...] = ()) -> Value:
    """Any other function of a row: a norm, a router. It needs every column and no sum owed; weights are replicated."""
    return Value(Op.WHOLE_ROW, label, width, arguments, weights)


def attend(q: Value, k: Value, v: Value, heads: Heads, *shared: Value, weights: tuple[Weight, ...] = ()) -> Value:
    """Causal attention of each query head over its request; `shared` reaches all heads (the rotary part of MLA keys).
    `weights` hold something for each query head (attention sinks) and are split like `q`.

    Returns [query heads * width of a value head], split like `q`. For multi-head latent attention `k` and `v` are the
    projections from the latent, with as many heads as `q`; the absorbed form is the same function.
    """
    return Value(Op.ATTEND, "attend", heads.heads * (v.width // heads.kv_heads), (q, k, v, *shared), weights, heads)


def experts(x: Value, routing: Value, up: tuple[Weight, ...], down: Weight) -> Value:
    """The sum over experts of `routing` times a gated feed-forward layer.

    `routing` has a column for each expert, `up` holds stacked [experts, width, hidden] (gate and up), `down` stacked
    [experts, hidden, width].
    """
    return Value(Op.EXPERTS, "experts", down.shape[1], (x, routing), (*up, down))


@dataclass(frozen=True, slots=True)
class Cache:
    """What a token adds to a module's KV cache: `heads` of `values` values each, split like `placement`."""

    values: int
    heads: int = 1
    placement: Placement | None = None
    """None: every rank of the attention group keeps all of it (the MLA latent)."""

    def values_on(self, mesh: Mesh, rank: int) -> int:
        """Values that a token takes on `rank`."""
        if self.placement is None:
            return self.values * self.heads
        return self.values * len(self.placement.slices((self.heads,), mesh, rank)[0])


@dataclass(frozen=True)
class Module:
    """A step of the stack: `kind` names the code that runs it, `output` says what it computes."""

    name: str
    kind: str
    output: Value
    cache: Cache | None = None

    @cached_property
    def nodes(self) -> tuple[Value, ...]:
        """The dataflow, arguments before what is made of them."""
        return tuple(self.output.nodes())

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """All weights, in the order of the dataflow."""
        found: dict[str, Weight] = {}
        for node in self.nodes:
            for weight in node.weights:
                found.setdefault(weight.name, weight)
        return tuple(found.values())

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Axes that split its weights: it runs on the rows of the ranks along them."""
        return tuple(dict.fromkeys(axis for weight in self.weights for axis in weight.placement.axes))

    @cached_property
    def needs_whole_requests(self) -> bool:
        """Whether a row of the output depends on other rows of its request."""
        return any(Law.WHOLE_REQUEST in node.op.laws for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Block:
    """A pre-norm block: stream += module(norm(stream))."""

    norm: Weight
    module: Module


@dataclass(frozen=True)
class Model:
    """A decoder: embedding, blocks in order, final norm, output head."""

    name: str
    hidden: int
    embed: Module
    blocks: tuple[Block, ...]
    norm: Weight
    head: Module

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Embedding, the blocks' modules and the head."""
        return (self.embed, *(block.module for block in self.blocks), self.head)

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every weight of the model once; a tied head shares the embedding's."""
        found: dict[str, Weight] = {}
        for weight in [w for module in self.modules for w in module.weights] + [b.norm for b in self.blocks]:
            if found.setdefault(weight.name, weight) != weight:
                raise ValueError(f"{weight.name} is declared twice, with different shapes or placements")
        found.setdefault(self.norm.name, self.norm)
        return tuple(found.values())
