"""Weights with their placements: which part of a tensor each rank holds.

The loader reads the slices that are computed here and the compiler derives from the same slices which sums a module
owes, so that the two cannot disagree.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

from .mesh import Mesh, PlacementError, flag, share

Axes = tuple[str, ...]


def _axes(over: str | Axes) -> Axes:
    return (over,) if isinstance(over, str) else over


class Placement(ABC):
    """Which part of a tensor each rank holds."""

    @property
    @abstractmethod
    def axes(self) -> Axes:
        """The axes of the mesh that split the tensor."""

    @abstractmethod
    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """What `rank` holds of a tensor of this shape: a contiguous range of each dimension; an empty one is zeros.

        Raises PlacementError saying which sizes of the axis would work.
        """


@dataclass(frozen=True, slots=True)
class Replicated(Placement):
    """Every rank holds all of it."""

    @property
    def axes(self) -> Axes:
        """The axes that split it."""
        return ()

    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """What `rank` holds."""
        return tuple(range(n) for n in shape)


@dataclass(frozen=True, slots=True)
class Split(Placement):
    """Dimensions cut into shares over axes: `cuts` holds for each its dimension, its axes and the unit of the cut.

    A unit is what must not be torn apart: the width of a head, or the block of a quantised weight.
    """

    cuts: tuple[tuple[int, Axes, int], ...]

    @property
    def axes(self) -> Axes:
        """The axes that split it."""
        return tuple(axis for _, over, _ in self.cuts for axis in over)

    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """What `rank` holds."""
        ranges = [range(n) for n in shape]
        for dim, over, unit in self.cuts:
            ranges[dim] = cut(shape[dim], unit, mesh, over, rank)
        return tuple(ranges)


def cut(size: int, unit: int, mesh: Mesh, over: Axes, rank: int) -> range:
    """The share of `size` that `rank` has, in whole units. Raises PlacementError if a rank would have none."""
    parts, units = mesh.size(over), -(-size // unit)
    if parts > units:
        which = " x ".join(flag(axis) for axis in over)
        of = f"{size} values in units of {unit}" if unit > 1 else f"{size}"
        raise PlacementError(f"{which} is {parts}, but there are only {of} to share; use at most {units}")
    part = share(units, parts)[mesh.coordinate(rank, over)]
    return range(part.start * unit, min(part.stop * unit, size))


def Column(over: str | Axes, unit: int = 1) -> Split:
    """A matrix [out, in], or a vector [out], whose outputs are split: each rank computes its columns of the result."""
    return Split(((0, _axes(over), unit),))


def Row(over: str | Axes, unit: int = 1) -> Split:
    """A matrix [out, in] whose inputs are split: each rank's result is one term of a sum that is owed over `over`."""
    return Split(((1, _axes(over), unit),))


def Vocab(over: str | Axes) -> Split:
    """A matrix [token ids, hidden] split by token id."""
    return Split(((0, _axes(over), 1),))


def Experts(over: str, inner: str | None = None, inner_dim: int = 1, unit: int = 1) -> Split:
    """Stacked experts [experts, out, in], split by expert, and each of them over `inner` along `inner_dim` if given."""
    cuts: tuple[tuple[int, Axes, int], ...] = ((0, (over,), 1),)
    return Split((*cuts, (inner_dim, (inner,), unit)) if inner else cuts)


@dataclass(frozen=True, slots=True)
class Once(Placement):
    """Held by the first rank of each group and zero on the others: what is added to a sum that is owed over `over`."""

    over: str | Axes

    @property
    def axes(self) -> Axes:
        """The axes that split it."""
        return _axes(self.over)

    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """What `rank` holds."""
        if mesh.coordinate(rank, self.axes) == 0:
            return tuple(range(n) for n in shape)
        return (range(0), *(range(n) for n in shape[1:]))


@dataclass(frozen=True, slots=True)
class Heads(Placement):
    """Heads split over `over` along dimension `dim`: queries, or with `kv` the keys and values that they attend to.

    `heads` query heads share `kv_heads` keys and values. If there are fewer of these than ranks, each is held by
    several ranks, which divide its queries among themselves.
    """

    over: str
    heads: int
    kv_heads: int
    kv: bool = False
    dim: int = 0

    @property
    def axes(self) -> Axes:
        """The axes that split it."""
        return (self.over,)

    def of(self, mesh: Mesh, rank: int) -> tuple[range, range]:
        """The query heads and the key and value heads of `rank`. Raises PlacementError naming what would work."""
        parts, place = mesh.size(self.axes), mesh.coordinate(rank, self.axes)
        group = self.heads // self.kv_heads
        if self.heads % self.kv_heads:
            raise PlacementError(f"{self.heads} query heads do not share {self.kv_heads} key and value heads evenly")
        if parts <= self.kv_heads:
            held = share(self.kv_heads, parts)[place]
            return range(held.start * group, held.stop * group), held
        copies, rest = divmod(parts, self.kv_heads)
        if rest or copies > group:
            fits = [*range(1, self.kv_heads + 1), *(self.kv_heads * n for n in range(2, group + 1))]
            raise PlacementError(
                f"{flag(self.over)} is {parts}, but {self.heads} query heads share {self.kv_heads} key and value "
                f"heads; use {_readable(fits)}"
            )
        head = place // copies
        mine = share(group, copies)[place % copies]
        return range(head * group + mine.start, head * group + mine.stop), range(head, head + 1)

    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """What `rank` holds."""
        queries, keys = self.of(mesh, rank)
        held, count = (keys, self.kv_heads) if self.kv else (queries, self.heads)
        width, rest = divmod(shape[self.dim], count)
        if rest:
            raise PlacementError(f"dimension {self.dim} of shape {shape} does not hold {count} heads of equal width")
        ranges = [range(n) for n in shape]
        ranges[self.dim] = range(held.start * width, held.stop * width)
        return tuple(ranges)


def _readable(sizes: list[int]) -> str:
    """A list of sizes, with a run from 1 upwards in short."""
    run = next((i for i, size in enumerate(sizes) if size != i + 1), len(sizes))
    texts = [f"1 to {run}"] if run > 2 else [str(size) for size in sizes[:run]]
    return ", ".join(texts + [str(size) for size in sizes[run:]])


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the checkpoint by its Hugging Face name.

    `{expert}` in the name stands for the index of a routed expert: the checkpoint has a tensor for each, and dimension
    0 of `shape` counts them.
    """

    name: str
    shape: tuple[int, ...]
    placement: Placement = Replicated()

    def slices(self, mesh: Mesh, rank: int) -> tuple[range, ...]:
        """What `rank` holds: a range of each dimension. Raises PlacementError naming the tensor."""
        try:
            return self.placement.slices(self.shape, mesh, rank)
        except PlacementError as error:
            raise PlacementError(f"{self.name}: {error}") from error

    def tensors(self, mesh: Mesh, rank: int) -> dict[str, tuple[range, ...]]:
        """What `rank` reads: for each tensor of the checkpoint, by name, a range of each of its dimensions."""
        ranges = self.slices(mesh, rank)
        if "{expert}" not in self.name:
            return {self.name: ranges}
        return {self.name.replace("{expert}", str(index)): ranges[1:] for index in ranges[0]}

    def values(self, mesh: Mesh, rank: int) -> int:
        """How many values `rank` holds."""
        return prod(len(r) for r in self.slices(mesh, rank))
