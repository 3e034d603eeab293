"""Placements on exact integers: a module run by its ranks on their slices, summed, against the module run whole.

Every operation is an integer function that keeps its laws and no others (a norm becomes a polynomial of the whole row,
attention a causal bilinear form), so that equality is `==` and nothing is hidden by a tolerance.
"""

from collections.abc import Callable
from math import gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..blocks import GroupedQuery, Latent, MixtureOfExperts, embedding, gated_mlp, lm_head
from ..contract import Module, Op, Value
from ..derivation import Derivation
from ..mesh import Mesh, PlacementError
from ..placements import Weight

Array = NDArray[np.int64]

SAMPLES: Final = (
    embedding(5, 6),
    lm_head(5, 6),
    GroupedQuery(6, 4, 2, 2).module("grouped-query attention"),
    GroupedQuery(6, 4, 2, 2, bias=True, output_bias=True, head_norms=True, sinks=True).module("attention with biases"),
    Latent(6, 4, 3, 2, 2, 1, 3).module("latent attention"),
    Latent(6, 4, None, 2, 2, 1, 3).module("latent attention, one query matrix"),
    gated_mlp("dense", 6, 5),
    MixtureOfExperts(6, 4, 4).module("experts"),
    MixtureOfExperts(6, 4, 4, 4, correction=True, shared_gate=True).module("routed and shared experts"),
)
"""Every kind of module, as small as its laws allow."""

ROWS: Final = 3
"""Rows of the one request that every module is tried on."""


def check(module: Module, derivation: Derivation, seed: int = 0) -> None:
    """Raises PlacementError naming the rank or group if the parts do not make the whole."""
    mesh = derivation.mesh
    derived = derivation.derive(module)
    values = _Values(seed)
    x = values.draw("x", (ROWS, module.output.nodes().__next__().width))
    whole = _evaluate(module, None, 0, values, x)
    parts = [_evaluate(module, mesh, rank, values, x) for rank in range(mesh.world)]
    for group in derived.owed or derived.split or [(rank,) for rank in range(mesh.world)]:
        held = [parts[rank] for rank in group]
        made = sum(held) if derived.owed else np.concatenate(held, axis=1) if derived.split else held[0]
        if not np.array_equal(np.asarray(made), whole):
            raise PlacementError(f"{module.name}: what ranks {group} compute does not make the whole")


class _Values:
    """Small integers by name: the same whoever asks."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def draw(self, name: str, shape: tuple[int, ...]) -> Array:
        """An array of -2 to 2."""
        generator = np.random.default_rng([self.seed, *name.encode()])
        return generator.integers(-2, 3, shape, dtype=np.int64)

    def weight(self, weight: Weight, mesh: Mesh | None, rank: int) -> Array:
        """A rank's slice; without a mesh the whole. What is placed once is zero elsewhere."""
        whole = self.draw(weight.name, weight.shape)
        if mesh is None:
            return whole
        ranges = weight.slices(mesh, rank)
        if not ranges[0]:
            return np.zeros_like(whole)
        return whole[tuple(slice(r.start, r.stop) for r in ranges)]


def _evaluate(module: Module, mesh: Mesh | None, rank: int, values: _Values, x: Array) -> Array:
    done: dict[int, Array] = {}
    for node in module.nodes:
        arguments = [done[id(argument)] for argument in node.arguments]
        weights = [values.weight(weight, mesh, rank) for weight in node.weights]
        first = 0 if mesh is None or not node.weights else node.weights[0].slices(mesh, rank)[0].start
        done[id(node)] = EXACT[node.op](node, arguments, weights, x, first)
    return done[id(module.output)]


def _embed(node: Value, arguments: list[Array], weights: list[Array], x: Array, first: int) -> Array:
    (table,) = weights
    ids = np.arange(node.weights[0].shape[0])  # every id once
    here = (ids >= first) & (ids < first + len(table))
    return np.asarray(table[np.clip(ids - first, 0, len(table) - 1)] * here[:, None])


def _linear(node: Value, arguments: list[Array], weights: list[Array], x: Array, first: int) -> Array:
    return np.asarray(arguments[0] @ weights[0].T + (weights[1] if len(weights) == 2 else 0))


def _pointwise(node: Value, arguments: list[Array], weights: list[Array], x: Array, first: int) -> Array:
    """Each unit of columns by itself, by a function that is not linear."""
    units = gcd(node.width, *(argument.width for argument in node.arguments))
    total: Array = np.ones((len(arguments[0]), 1, 1), dtype=np.int64)
    for place, (argument, declared) in enumerate(zip(arguments, node.arguments, strict=True)):
        blocks = argument.reshape(len(argument), -1, declared.width // units)
        outs = np.arange(node.width // units)
        mixed = blocks @ (np.add.outer(np.arange(blocks.shape[2]), outs) % 3 + 1) + place
        total = total * (mixed * mixed - mixed + 1)
    factor = 1 + sum(int(weight.sum()) for weight in weights)
    return np.asarray((total * factor).reshape(len(arguments[0]), -1))


def _whole_row(node: Value, arguments: list[Array], weights: list[Array], x: Array, first: int) -> Array:
    """A polynomial of all columns."""
    total = sum((argument * argument + np.arange(argument.shape[1])).sum(1) for argument in arguments)
    factor = np.arange(node.width) + 1 + sum(int(weight.sum()) for weight in weights)
    return np.asarray(np.multiply.outer(np.asarray(total), factor) % 7)


def _attend(node: Value, arguments: list[Array], weights: list[Array], x: Array, first: int) -> Array:
    """Causal, and bilinear instead of a softmax; queries beyond the keys' width meet what all heads share."""
    assert node.heads is not None
    q, k, v, *shared = arguments
    declared = node.arguments
    dims = [declared[0].width // node.heads.heads, *(d.width // node.heads.kv_heads for d in declared[1:3])]
    q, k, v = (t.reshape(len(t), -1, dim) for t, dim in zip((q, k, v), dims, strict=True))
    k, v = (np.repeat(t, q.shape[1] // t.shape[1], axis=1) for t in (k, v))
    width = min(dims[0], dims[1])
    scores = np.einsum("ihd,jhd->hij", q[..., :width], k[..., :width])
    for value in shared:
        scores = scores + np.einsum("ihd,jd->hij", q[..., width:], value[:, : q.shape[2] - width])
    if weights:
        scores = scores + weights[0][:, None, None]
    return np.asarray(np.einsum("hij,jhd->ihd", np.tril(scores), v).reshape(len(q), -1))


def _experts(node: Value, arguments: list[Array], weights: list[Array], x: Array, first: int) -> Array:
    rows, routing = arguments
    gate, up, down = weights
    return sum(
        (
            routing[:, first + e, None] * ((rows @ gate[e].T) ** 2 * (rows @ up[e].T)) @ down[e].T
            for e in range(len(down))
        ),
        start=np.zeros((len(rows), node.width), dtype=np.int64),
    )


EXACT: Final[dict[Op, Callable[[Value, list[Array], list[Array], Array, int], Array]]] = {
    Op.ROWS: lambda node, arguments, weights, x, first: x,
    Op.EMBED: _embed,
    Op.LINEAR: _linear,
    Op.ADD: lambda node, arguments, weights, x, first: arguments[0] + arguments[1],
    Op.SCALED: lambda node, arguments, weights, x, first: arguments[0] * (arguments[1] if arguments[1:] else 3),
    Op.POINTWISE: _pointwise,
    Op.WHOLE_ROW: _whole_row,
    Op.ATTEND: _attend,
    Op.EXPERTS: _experts,
}
"""An integer function for each operation."""
