"""Runs a plan on tensors: a list of bound functions, one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..contract import Module
from ..mesh import PlacementError
from ..placements import Weight
from ..plan import COLLECTIVES, HIDDEN, Act, BoundCall, Plan, StepRows
from .collectives import Communicator

Body = Callable[[torch.Tensor, Any], torch.Tensor]
"""A module on a rank: from rows [rows, hidden] (the embedding: token ids [rows]) and the step its term of the output.

It is never called without rows."""


class Norm(Protocol):
    """Adds what a module computed to the stream, and norms the sum."""

    def __call__(self, hidden: torch.Tensor, stream: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The normed rows and the new stream, both [rows, hidden]; without a stream `hidden` is it."""
        ...


@dataclass(slots=True)
class _State:
    hidden: torch.Tensor
    stream: torch.Tensor | None
    ids: Sequence[torch.Tensor]
    step: Any
    rows: StepRows | None
    counts: tuple[int, ...]


_Bound = Callable[[_State], None]


class Stack:
    """A model on one rank. Made once; a step runs the same calls every time."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        *,
        body: Callable[[Module], Body],
        norm: Callable[[Weight], Norm],
        communicator: Communicator | None = None,
    ) -> None:
        """`body` and `norm` make the code of a module or norm, with the rank's weights.

        Raises ValueError if the plan has collectives and there is no communicator.
        """
        calls = plan.bind(rank)
        if communicator is None and any(call.act in COLLECTIVES for call in calls):
            raise ValueError(f"rank {rank} of {plan.mesh.world} needs a communicator")
        self.plan = plan
        self.rank = rank
        self._communicator = communicator
        self._widths = _widths(plan)
        self._groups = plan.attention
        self._select = next(i for i, call in enumerate(calls) if call.act is Act.SELECT)
        self._held = calls[self._select].members
        bodies = {call.module.name: body(call.module) for call in calls if call.module is not None}
        norms = {call.norm.name: norm(call.norm) for call in calls if call.norm is not None}
        bound = [self._bind(call, bodies, norms) for call in calls]
        self._forward, self._logits = bound[: self._select], bound[self._select + 1 :]

    def forward(self, ids: Sequence[torch.Tensor], step: Any, rows: StepRows | None = None) -> torch.Tensor:
        """All blocks and the final norm over a step's tokens, [rows that this rank holds, hidden].

        `ids`: token ids [tokens] of every attention group, in order. `step` is handed to the modules. `rows` may be
        left out in a world of one.
        """
        state = self._state(torch.empty(0), ids, step, rows, sampled=False)
        for call in self._forward:
            call(state)
        return state.hidden

    def select(self, hidden: torch.Tensor, rows: StepRows) -> torch.Tensor:
        """The sampled ones of the rows that `forward` returned."""
        wanted = [chosen for member in self._held for chosen in rows.chosen[member]]
        index = torch.tensor([i for i, chosen in enumerate(wanted) if chosen], dtype=torch.int64)
        return hidden[index.to(hidden.device)]

    def logits(self, hidden: torch.Tensor, step: Any = None, rows: StepRows | None = None) -> torch.Tensor:
        """Scores of the next token for every sampled row of this rank's attention group, [rows, vocabulary]."""
        state = self._state(hidden, (), step, rows, sampled=True)
        for call in self._logits:
            call(state)
        return state.hidden

    def _state(
        self, hidden: torch.Tensor, ids: Sequence[torch.Tensor], step: Any, rows: StepRows | None, *, sampled: bool
    ) -> _State:
        if rows is None and self.plan.mesh.world > 1:
            raise ValueError(f"a world of {self.plan.mesh.world} ranks needs the rows of every rank")
        counts = () if rows is None else rows.sampled if sampled else rows.tokens
        return _State(hidden, None, ids, step, rows, counts)

    def _bind(self, call: BoundCall, bodies: dict[str, Body], norms: dict[str, Norm]) -> _Bound:
        members = call.members
        match call.act:
            case Act.EMBED:
                assert call.module is not None
                return self._embed(call, bodies[call.module.name])
            case Act.RUN:
                assert call.module is not None
                body = bodies[call.module.name]
                width = self._widths[self.rank] if call.module is self.plan.model.head else call.module.output.width

                def run(state: _State) -> None:
                    rows = state.hidden
                    state.hidden = body(rows, state.step) if len(rows) else rows.new_zeros(0, width)

                return run
            case Act.NORM | Act.ALL_REDUCE_NORM:
                assert call.norm is not None
                norm, reduce = norms[call.norm.name], call.act is Act.ALL_REDUCE_NORM

                def add_norm(state: _State) -> None:
                    if reduce:
                        state.hidden = self._links.all_reduce(state.hidden, members)
                    if len(state.hidden):
                        state.hidden, state.stream = norm(state.hidden, state.stream)
                    elif state.stream is None:
                        state.stream = state.hidden

                return add_norm
            case Act.ALL_REDUCE:

                def all_reduce(state: _State) -> None:
                    state.hidden = self._links.all_reduce(state.hidden, members)

                return all_reduce
            case Act.REDUCE_SCATTER:

                def reduce_scatter(state: _State) -> None:
                    counts = [state.counts[member] for member in members]
                    state.hidden = self._links.reduce_scatter(state.hidden, members, counts)

                return reduce_scatter
            case Act.ALL_GATHER:
                return self._on(call, lambda x, state: self._gather(x, members, state))
            case Act.SLICE:
                return self._on(call, lambda x, state: _slice(x, call, state.counts))
            case Act.GATHER_COLUMNS:
                widths = [self._widths[member] for member in members]

                def gather_columns(state: _State) -> None:
                    state.hidden = self._links.gather_columns(state.hidden, members, widths)

                return gather_columns
            case Act.SELECT:
                return lambda state: None  # between forward and logits
        raise PlacementError(f"{call.act.value} is unknown")

    @property
    def _links(self) -> Communicator:
        assert self._communicator is not None
        return self._communicator

    def _on(self, call: BoundCall, function: Callable[[torch.Tensor, _State], torch.Tensor]) -> _Bound:
        if call.register == HIDDEN:

            def on_hidden(state: _State) -> None:
                state.hidden = function(state.hidden, state)

            return on_hidden

        def on_stream(state: _State) -> None:
            assert state.stream is not None
            state.stream = function(state.stream, state)

        return on_stream

    def _gather(self, x: torch.Tensor, members: tuple[int, ...], state: _State) -> torch.Tensor:
        return self._links.all_gather(x, members, [state.counts[member] for member in members])

    def _embed(self, call: BoundCall, body: Body) -> _Bound:
        if self.plan.mesh.world == 1:

            def embed_all(state: _State) -> None:
                state.hidden = body(state.ids[0], state.step)

            return embed_all

        def embed(state: _State) -> None:
            state.hidden = body(torch.cat([_share(state, self._groups.parts, m) for m in call.members]), state.step)

        return embed


def _share(state: _State, groups: Sequence[tuple[int, ...]], member: int) -> torch.Tensor:
    """The token ids of a rank's share."""
    index, group = next((i, group) for i, group in enumerate(groups) if member in group)
    start = sum(state.counts[other] for other in group if other < member)
    return state.ids[index][start : start + state.counts[member]]


def _slice(x: torch.Tensor, call: BoundCall, counts: tuple[int, ...]) -> torch.Tensor:
    """The rows of `call.members`, out of those of `call.source`."""
    parts = dict(zip(call.source, x.split([counts[member] for member in call.source]), strict=True))
    kept = [parts[member] for member in call.members]
    return kept[0] if len(kept) == 1 else torch.cat(kept)


def _widths(plan: Plan) -> list[int]:
    """Columns of the logits on each rank."""
    head = plan.model.head.weights[0]
    return [len(head.slices(plan.mesh, rank)[0]) for rank in range(plan.mesh.world)]
