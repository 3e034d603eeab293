"""A compiled plan: a straight list of calls, the same on every rank. Nothing is decided while a step runs.

A plan works on two registers: `hidden`, what the last call computed, and `stream`, the residual stream. Rows are held
in shares: a rank owns a contiguous share of the rows of its attention group, and a rank that "holds the rows of a
group" has the shares of that group's ranks, in rank order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import accumulate

from .agreement import Uniform
from .contract import Model, Module
from .mesh import Groups, Mesh, share
from .placements import Weight


class Act(Enum):
    """What a call does."""

    EMBED = "embed"
    """hidden = the embedding of the rows of `groups`."""
    RUN = "run"
    """hidden = module(hidden)."""
    NORM = "add + norm"
    """stream += hidden (the first time stream = hidden); hidden = norm(stream)."""
    ALL_REDUCE = "all-reduce"
    """hidden = the sum over `groups`."""
    ALL_REDUCE_NORM = "all-reduce + add + norm"
    """Both of the above as one call, for a kernel that does them at once."""
    REDUCE_SCATTER = "reduce-scatter"
    """hidden = this rank's share of the sum over `groups`."""
    ALL_GATHER = "all-gather"
    """register = the shares of `groups`."""
    SLICE = "slice"
    """register = the rows of `groups`, out of those of `source`, which are more; no communication."""
    SELECT = "select"
    """hidden = its rows whose next token is wanted, out of the rows of `groups`."""
    GATHER_COLUMNS = "all-gather of columns"
    """hidden = all columns, which are split over `groups`."""


COLLECTIVES = (Act.ALL_REDUCE, Act.ALL_REDUCE_NORM, Act.REDUCE_SCATTER, Act.ALL_GATHER, Act.GATHER_COLUMNS)

HIDDEN, STREAM = "hidden", "stream"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the plan. `reason` says why it is there."""

    act: Act
    where: str
    """Name of the module or norm."""
    groups: Groups | None = None
    source: Groups | None = None
    register: str = HIDDEN
    module: Module | None = None
    norm: Weight | None = None
    reason: str = ""
    bytes_per_token: float = 0.0
    """Bytes that a rank sends for each token of a step, all ranks' tokens counted."""


@dataclass(frozen=True, slots=True)
class BoundCall:
    """A call as one rank makes it: with the ranks it speaks to instead of groups."""

    act: Act
    where: str
    members: tuple[int, ...] = ()
    source: tuple[int, ...] = ()
    register: str = HIDDEN
    module: Module | None = None
    norm: Weight | None = None


@dataclass(frozen=True)
class Plan:
    """A model on a mesh, compiled."""

    model: Model
    mesh: Mesh
    attention: Groups
    """Ranks that serve the same requests."""
    calls: tuple[Call, ...]
    seconds: float
    """What the link model says of its collectives and norms, at the number of tokens it was compiled for."""

    def bind(self, rank: int) -> tuple[BoundCall, ...]:
        """The calls that `rank` makes; a group of one rank has nothing to say to itself."""
        return tuple(
            bound
            for call in self.calls
            if (bound := _bind(call, rank)).act not in COLLECTIVES or len(bound.members) > 1
        )

    def without(self, index: int) -> "Plan":
        """The plan with one call left out (a mutant)."""
        return self.with_calls([*self.calls[:index], *self.calls[index + 1 :]])

    def with_calls(self, calls: Sequence[Call]) -> "Plan":
        """The same model and mesh with other calls."""
        return replace(self, calls=tuple(calls))


def _bind(call: Call, rank: int) -> BoundCall:
    return BoundCall(
        call.act,
        call.where,
        call.groups.of(rank) if call.groups else (),
        call.source.of(rank) if call.source else (),
        call.register,
        call.module,
        call.norm,
    )


@dataclass(frozen=True)
class StepRows:
    """How many rows each rank's share has, agreed upon by all ranks: the only thing about a step a plan depends on."""

    tokens: tuple[int, ...]
    """Rows of each rank's share."""
    chosen: tuple[tuple[bool, ...], ...]
    """For each rank which rows of its share are sampled."""

    @classmethod
    def single(cls, ranks: int, tokens: int, sampled: int) -> "StepRows":
        """One attention group of all ranks, which therefore know the counts without asking.

        The sampled rows are shared out anew: for a plan that has all rows on every rank when they are selected.
        """
        held = tuple(len(part) for part in share(tokens, ranks))
        left = tuple((True,) * len(part) for part in share(sampled, ranks))
        return cls(held, left)

    @cached_property
    def sampled(self) -> tuple[int, ...]:
        """Rows of each rank's share that are left after `Act.SELECT`."""
        return tuple(sum(rows) for rows in self.chosen)

    @classmethod
    def of(
        cls, attention: Groups, tokens: Uniform[tuple[int, ...]], sampled: Uniform[tuple[tuple[int, ...], ...]]
    ) -> "StepRows":
        """Shares of the rows that each attention group has, in the order of groups.

        `tokens`: rows of each group. `sampled`: for each group which of its rows are sampled, ascending.
        Raises ValueError naming the group whose numbers do not fit.
        """
        counts, chosen = [0] * attention.world, [()] * attention.world  # type: list[int], list[tuple[bool, ...]]
        for group, total, rows in zip(attention, tokens.value, sampled.value, strict=True):
            if total < 0 or any(not 0 <= row < total for row in rows) or list(rows) != sorted(set(rows)):
                raise ValueError(f"ranks {group} have {total} rows, of which {rows} cannot be sampled")
            wanted = set(rows)
            for rank, held in zip(group, share(total, len(group)), strict=True):
                counts[rank], chosen[rank] = len(held), tuple(row in wanted for row in held)
        return cls(tuple(counts), tuple(chosen))

    def offsets(self, members: Sequence[int], counts: Sequence[int]) -> dict[int, int]:
        """Where each member's share begins among the rows of all of them."""
        sizes = [counts[member] for member in members]
        return dict(zip(members, accumulate(sizes, initial=0), strict=False))
