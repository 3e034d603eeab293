"""The world of ranks as a mesh of named axes, and groups of ranks.

A group is the set of ranks it denotes: two groups are equal if they partition the world alike, whatever the axes that
made them are called and however large they are. Comparing sizes instead is how a collective reaches the wrong ranks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final


class PlacementError(ValueError):
    """A model that cannot be placed on the mesh, or a plan that is not equal to one device. Names what would work."""


TENSOR: Final = "tp"
"""Attention heads are split over this axis."""
DATA: Final = "dp"
"""Requests are split over this axis: each of its groups schedules and caches its own."""
DENSE: Final = "dense_tp"
"""Feed-forward layers without experts are split over this axis."""
EXPERT: Final = "ep"
"""Whole experts are split over this axis."""
EXPERT_TENSOR: Final = "expert_tp"
"""Each expert's width is split over this axis."""
VOCABULARY: Final = "vocab_tp"
"""Embedding and output head are split over this axis, by token id."""

EXPERTS: Final = (EXPERT, EXPERT_TENSOR)
"""Both axes of a mixture of experts: its output is owed over their ranks together."""


def flag(axis: str) -> str:
    """The command line option that sets the size of `axis`."""
    return "--" + axis.replace("_", "-")


@lru_cache(maxsize=4096)
def share(total: int, parts: int) -> tuple[range, ...]:
    """`total` things in order over `parts`: contiguous shares whose sizes differ by at most one, the larger first."""
    size, rest = divmod(total, parts)
    return tuple(range(i * size + min(i, rest), (i + 1) * size + min(i + 1, rest)) for i in range(parts))


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How a model is spread: sizes of the axes, for a world of `tp * dp` ranks.

    None takes the usual choice: dense layers and vocabulary are split like attention, experts over the whole world
    (what `ep` does not take splits every expert).
    """

    tp: int = 1
    dp: int = 1
    dense_tp: int | None = None
    ep: int = 1
    expert_tp: int | None = None
    vocab_tp: int | None = None

    @property
    def world(self) -> int:
        """Ranks altogether."""
        return self.tp * self.dp

    def sizes(self) -> dict[str, int]:
        """The size of every axis. Raises PlacementError naming the option that does not fit the world."""
        world = self.world
        for name in ("tp", "dp"):
            if getattr(self, name) < 1:
                raise PlacementError(f"{flag(name)} is {getattr(self, name)}; use at least 1")
        if self.ep < 1 or world % self.ep:
            raise PlacementError(self._does_not_divide(EXPERT, self.ep, world))
        sizes = {
            TENSOR: self.tp,
            DATA: self.dp,
            DENSE: self.tp if self.dense_tp is None else self.dense_tp,
            EXPERT: self.ep,
            EXPERT_TENSOR: world // self.ep if self.expert_tp is None else self.expert_tp,
            VOCABULARY: self.tp if self.vocab_tp is None else self.vocab_tp,
        }
        for axis in (DENSE, VOCABULARY):
            if sizes[axis] < 1 or world % sizes[axis]:
                raise PlacementError(self._does_not_divide(axis, sizes[axis], world))
        if sizes[EXPERT_TENSOR] < 1 or (world // self.ep) % sizes[EXPERT_TENSOR]:
            raise PlacementError(self._does_not_divide(EXPERT_TENSOR, sizes[EXPERT_TENSOR], world // self.ep))
        return sizes

    def _does_not_divide(self, axis: str, size: int, of: int) -> str:
        ranks = f"{self.world} ranks (--tp {self.tp} x --dp {self.dp})"
        if axis == EXPERT_TENSOR:
            ranks += f" over --ep {self.ep}"
        return f"{flag(axis)} is {size}, which does not divide the {ranks}; use {_listed(divisors(of))}"

    def __str__(self) -> str:
        sizes = self.sizes()
        return " ".join(f"{flag(axis)} {sizes[axis]}" for axis in sizes)


def _listed(values: list[int]) -> str:
    return " or ".join([", ".join(map(str, values[:-1])), str(values[-1])] if len(values) > 1 else [str(values[0])])


@dataclass(frozen=True)
class Groups:
    """A partition of the world: every rank is in exactly one group. Ranks of a group and groups are in order."""

    parts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        ranks = sorted(rank for part in self.parts for rank in part)
        if ranks != list(range(len(ranks))) or any(not part for part in self.parts):
            raise ValueError(f"{self.parts} is not a partition of ranks 0 to {len(ranks) - 1}")
        if list(self.parts) != sorted(tuple(sorted(part)) for part in self.parts):
            raise ValueError(f"{self.parts} is not in order")

    @property
    def world(self) -> int:
        """Ranks altogether."""
        return sum(len(part) for part in self.parts)

    @cached_property
    def size(self) -> int:
        """Ranks of the largest group."""
        return max(len(part) for part in self.parts)

    @cached_property
    def _by_rank(self) -> dict[int, tuple[int, ...]]:
        return {rank: part for part in self.parts for rank in part}

    def of(self, rank: int) -> tuple[int, ...]:
        """The group that `rank` is in."""
        return self._by_rank[rank]

    def refines(self, other: "Groups") -> bool:
        """Whether every group lies within a group of `other`."""
        return all(set(part) <= set(other.of(part[0])) for part in self.parts)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self.parts)

    def __str__(self) -> str:
        return " ".join("{" + ",".join(map(str, part)) + "}" for part in self.parts)


def alone(world: int) -> Groups:
    """Every rank by itself."""
    return Groups(tuple((rank,) for rank in range(world)))


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of an axis, and how far apart its neighbouring ranks are."""

    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Mesh:
    """Named axes over ranks 0 to `world - 1`. Axes may be different factorings of the same world."""

    world: int
    axes: Mapping[str, Extent]

    def coordinate(self, rank: int, axes: tuple[str, ...]) -> int:
        """Where `rank` is along `axes` taken together, the first one slowest."""
        position = 0
        for axis in axes:
            extent = self.axes[axis]
            position = position * extent.size + rank // extent.stride % extent.size
        return position

    def size(self, axes: tuple[str, ...]) -> int:
        """Ranks along `axes` taken together; 1 for none."""
        product = 1
        for axis in axes:
            product *= self.axes[axis].size
        return product

    def groups(self, axes: tuple[str, ...]) -> Groups:
        """Ranks that differ only in their coordinates along `axes`."""
        parts: dict[int, list[int]] = {}
        for rank in range(self.world):
            rest = rank
            for axis in axes:
                extent = self.axes[axis]
                rest -= rank // extent.stride % extent.size * extent.stride
            parts.setdefault(rest, []).append(rank)
        return Groups(tuple(sorted(tuple(part) for part in parts.values())))

    @classmethod
    def of(cls, parallelism: Parallelism) -> "Mesh":
        """Tensor axes have neighbouring ranks; `dp` and `ep` lie outside of theirs. Raises PlacementError."""
        sizes = parallelism.sizes()
        strides = {DATA: sizes[TENSOR], EXPERT: sizes[EXPERT_TENSOR]}
        return cls(parallelism.world, {axis: Extent(size, strides.get(axis, 1)) for axis, size in sizes.items()})
