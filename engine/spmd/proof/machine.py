"""Ranks that run their calls on symbols, and wait for each other in collectives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..contract import Module
from ..derivation import Derivation, Local, Rule, Terms
from ..mesh import PlacementError
from ..placements import Weight
from ..plan import COLLECTIVES, HIDDEN, STREAM, Act, BoundCall, StepRows
from .sums import Sums, Term

Rows = list[int]
"""The rows that a register holds, each a sum."""


class PlanError(PlacementError):
    """A plan that does not equal one device. Names the call, the rank, the row, and what is wrong with it."""


class Functions:
    """Modules and norms on symbols: each application to other rows is another value."""

    def __init__(self, sums: Sums, ignored: frozenset[Rule]) -> None:
        self.sums = sums
        self.ignored = ignored
        self._norms: dict[tuple[str, int], int] = {}
        self._contexts: dict[tuple[int, ...], int] = {}
        self._outputs: dict[tuple[str, Terms, tuple[object, ...]], int] = {}

    def norm(self, weight: Weight, row: int) -> int:
        """A norm of a row: a new whole value, which is no sum of norms."""
        known = self._norms.get((weight.name, row))
        if known is None:
            known = self._norms[weight.name, row] = self.sums.of([((weight.name, row), ())])
        return known

    def run(self, module: Module, local: Local, rows: Rows) -> Rows:
        """A module on all rows that a rank has."""
        if module.needs_whole_requests and Rule.WHOLE_REQUEST not in self.ignored:
            context = self._contexts.setdefault(tuple(rows), len(self._contexts))
            return [self.output(module, local, (context, place)) for place in range(len(rows))]
        return [self.output(module, local, (row,)) for row in rows]

    def output(self, module: Module, local: Local, argument: tuple[object, ...]) -> int:
        """A rank's part of one row of the output."""
        key = (module.name, local.terms, argument)
        known = self._outputs.get(key)
        if known is None:
            terms: list[Term] = [((module.name, name, *argument), box) for name, box in local.terms]
            known = self._outputs[key] = self.sums.of(terms)
        return known


Posted = tuple[dict[str, Rows], range | None]
"""Registers, and the columns of `hidden`."""


@dataclass(slots=True)
class Rank:
    """One rank: its list of calls, where it is in it, and its registers."""

    number: int
    calls: tuple[BoundCall, ...]
    at: int = 0
    registers: dict[str, Rows] = field(default_factory=dict)
    columns: range | None = None
    """Columns of `hidden`; None: all."""
    width: int = 0
    posted: list["Posted"] = field(default_factory=list)
    """What it brought to each of its collectives."""
    left: "Posted | None" = None
    """What it had before it last kept a part of its rows: what a collective that it leaves out would have seen."""

    def read(self, register: str) -> Rows:
        """The rows of a register. Raises PlanError if nothing was put there."""
        if register not in self.registers:
            raise PlanError(f"call {self.at} of rank {self.number} reads {register}, which nothing was put into")
        return self.registers[register]

    @property
    def call(self) -> BoundCall | None:
        """What it does next; None at the end."""
        return self.calls[self.at] if self.at < len(self.calls) else None


class Machine:
    """All ranks of a world, running one step."""

    def __init__(
        self,
        programs: Sequence[tuple[BoundCall, ...]],
        derivation: Derivation,
        step: StepRows,
        names: Sequence[Sequence[object]],
        functions: Functions,
        check: Callable[[Rank, Weight, Rows], None],
    ) -> None:
        """`names`: what the rows of each rank's share are called. `check` sees the stream before every norm."""
        self.ranks = [Rank(number, program) for number, program in enumerate(programs)]
        self.derivation, self.step, self.names = derivation, step, names
        self.functions, self.check = functions, check
        self.sums, self.ignored = functions.sums, functions.ignored
        self.selected = [False] * len(self.ranks)
        self.log: list[list[tuple[Act, tuple[int, ...], tuple[int, ...]]]] = [[] for _ in self.ranks]
        """The collectives that each rank took part in: what, with whom, and the rows of each."""
        self._by_turn = False

    def run(self) -> None:
        """Runs all lists to their ends. Raises PlanError."""
        while True:
            for rank in self.ranks:
                while (call := rank.call) is not None and call.act not in COLLECTIVES:
                    self._local(rank, call)
                    rank.at += 1
                if call is not None and len(rank.posted) <= self._turn(rank):
                    rank.posted.append((dict(rank.registers), rank.columns))
            waiting = [rank for rank in self.ranks if rank.call is not None]
            if not waiting:
                return
            if not any([self._meet(rank) for rank in waiting]):
                self._stuck(waiting[0])

    def _turn(self, rank: Rank) -> int:
        return len(self.log[rank.number])

    def _meet(self, rank: Rank) -> bool:
        """Lets `rank` and those it waits for pass, if all of them are there."""
        call = rank.call
        if call is None or call.act not in COLLECTIVES:
            return False
        peers = [self.ranks[member] for member in call.members]
        if self._by_turn:
            return self._pass_alone(rank, call, peers)
        if any(peer.call is None or peer.call.members != call.members for peer in peers):
            return False
        if any(peer.call is None or peer.call.act not in COLLECTIVES for peer in peers):
            return False
        acts = {peer.number: _wire(peer.call.act) for peer in peers if peer.call}
        if len(set(acts.values())) > 1:
            listed = ", ".join(f"rank {number} {act.value}" for number, act in acts.items())
            self._violated(Rule.SAME_CALL, rank, call, f"ranks that meet make different calls: {listed}")
            return True
        sent = [peer.read(peer.call.register) for peer in peers if peer.call]
        columns = [peer.columns for peer in peers]
        counts = tuple(len(rows) for rows in sent)
        for peer in peers:
            assert peer.call is not None
            self._finish(peer, peer.call, sent, columns)
            self.log[peer.number].append((_wire(call.act), call.members, counts))
        return True

    def _pass_alone(self, rank: Rank, call: BoundCall, peers: list[Rank]) -> bool:
        """Without rules of meeting: `rank` takes what the others had at the same turn."""
        turn = self._turn(rank)
        if any(peer.call is not None and len(peer.posted) <= turn for peer in peers):
            return False
        now = [(peer.registers, peer.columns) if peer.left is None else peer.left for peer in peers]
        brought = [
            peer.posted[turn] if len(peer.posted) > turn else there for peer, there in zip(peers, now, strict=True)
        ]
        sent = [registers.get(call.register, []) for registers, _ in brought]
        self._finish(rank, call, sent, [columns for _, columns in brought])
        self.log[rank.number].append((_wire(call.act), call.members, ()))
        return True

    def _stuck(self, rank: Rank) -> None:
        """Says why nobody can go on."""
        call = rank.call
        assert call is not None
        for member in call.members:
            other = self.ranks[member].call
            if other is None:
                text = f"rank {member} has no more calls and never comes to it"
                return self._violated(Rule.ALL_TAKE_PART, rank, call, text)
            if other.members != call.members:
                text = f"rank {member} is in {_text(other)} with ranks {_set(other.members)}"
                return self._violated(Rule.SAME_RANKS, rank, call, text)
        raise PlanError(f"{_text(call)}: rank {rank.number} waits for ever")

    def _violated(self, rule: Rule, rank: Rank, call: BoundCall, text: str) -> None:
        if rule not in self.ignored:
            raise PlanError(f"{_text(call)}: rank {rank.number} waits for ranks {_set(call.members)}, but {text}")
        self._by_turn = True

    def _finish(self, rank: Rank, call: BoundCall, sent: list[Rows], columns: list[range | None]) -> None:
        """What a collective leaves on `rank`."""
        registers, members = rank.registers, call.members
        counts = [self._counts(rank)[member] for member in members]
        place = members.index(rank.number)
        if (
            call.act is not Act.GATHER_COLUMNS
            and call.register == HIDDEN
            and any(part != columns[0] for part in columns)
        ):
            raise PlanError(f"{_text(call)}: ranks {_set(members)} have different columns")
        match call.act:
            case Act.ALL_GATHER:
                for member, rows, count in zip(members, sent, counts, strict=True):
                    if len(rows) != count:
                        raise PlanError(f"{_text(call)}: rank {member} has {len(rows)} rows where its share is {count}")
                registers[call.register] = [row for rows in sent for row in rows]
            case Act.GATHER_COLUMNS:
                self._join_columns(rank, call, sent, columns)
            case _:
                total = self._total(call, sent)
                if call.act is Act.REDUCE_SCATTER:
                    if len(total) != sum(counts):
                        raise PlanError(
                            f"{_text(call)}: rank {rank.number} has {len(total)} rows to share, but ranks "
                            f"{_set(members)} own {sum(counts)}"
                        )
                    start = sum(counts[:place])
                    total = total[start : start + counts[place]]
                registers[HIDDEN] = total
                if call.act is Act.ALL_REDUCE_NORM:
                    self._norm(rank, call)
        rank.at += 1

    def _total(self, call: BoundCall, sent: list[Rows]) -> Rows:
        sizes = {member: len(rows) for member, rows in zip(call.members, sent, strict=True)}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"rank {member} {size}" for member, size in sizes.items())
            raise PlanError(f"{_text(call)}: ranks that sum have different numbers of rows: {listed}")
        return [self.sums.add(*(rows[place] for rows in sent)) for place in range(len(sent[0]))]

    def _join_columns(self, rank: Rank, call: BoundCall, sent: list[Rows], columns: list[range | None]) -> None:
        if any(rows != sent[0] for rows in sent):
            raise PlanError(f"{_text(call)}: ranks {_set(call.members)} have columns of different rows")
        parts = [part or range(rank.width) for part in columns]
        ends = [0, *(part.stop for part in parts)]
        if any(part.start != end for part, end in zip(parts, ends, strict=False)) or ends[-1] != rank.width:
            listed = ", ".join("all" if part is None else f"{part.start}:{part.stop}" for part in columns)
            raise PlanError(f"{_text(call)}: wanted {rank.width} columns in order, found {listed}")
        rank.columns = None

    def _counts(self, rank: Rank) -> tuple[int, ...]:
        return self.step.sampled if self.selected[rank.number] else self.step.tokens

    def _local(self, rank: Rank, call: BoundCall) -> None:
        """A call without communication."""
        match call.act:
            case Act.EMBED:
                assert call.module is not None
                local = self.derivation.derive(call.module).local[rank.number]
                names = [name for member in call.members for name in self.names[member]]
                rank.registers[HIDDEN] = [self.functions.output(call.module, local, (name,)) for name in names]
            case Act.RUN:
                assert call.module is not None
                if rank.columns is not None and Rule.ALL_COLUMNS not in self.ignored:
                    raise PlanError(f"{_text(call)}: rank {rank.number} has only columns {rank.columns}")
                local = self.derivation.derive(call.module).local[rank.number]
                rank.registers[HIDDEN] = self.functions.run(call.module, local, rank.read(HIDDEN))
                rank.columns, rank.width = (None if local.all_columns else local.columns), local.width
            case Act.NORM:
                self._norm(rank, call)
            case Act.SLICE:
                rank.left = (dict(rank.registers), rank.columns)
                rank.registers[call.register] = self._slice(rank, call)
            case Act.SELECT:
                self._select(rank, call)

    def _norm(self, rank: Rank, call: BoundCall) -> None:
        assert call.norm is not None
        hidden, stream = rank.read(HIDDEN), rank.registers.get(STREAM)
        if stream is not None:
            if len(stream) != len(hidden):
                raise PlanError(
                    f"{_text(call)}: rank {rank.number} has {len(hidden)} rows to add to a stream of {len(stream)}"
                )
            hidden = [self.sums.add(old, new) for old, new in zip(stream, hidden, strict=True)]
        if Rule.EACH_PART in self.ignored:
            hidden = [self.sums.completed(row) for row in hidden]
        rank.registers[STREAM] = hidden
        self.check(rank, call.norm, hidden)
        rank.registers[HIDDEN] = [self.functions.norm(call.norm, row) for row in hidden]

    def _slice(self, rank: Rank, call: BoundCall) -> Rows:
        rows, counts = rank.read(call.register), self._counts(rank)
        if len(rows) != sum(counts[member] for member in call.source):
            raise PlanError(
                f"{_text(call)}: rank {rank.number} has {len(rows)} rows of {call.register}, not those of ranks "
                f"{_set(call.source)}"
            )
        offsets = self.step.offsets(call.source, counts)
        if not set(call.members) <= set(call.source):
            raise PlanError(f"{_text(call)}: rank {rank.number} does not have the rows of ranks {_set(call.members)}")
        return [row for m in call.members for row in rows[offsets[m] : offsets[m] + counts[m]]]

    def _select(self, rank: Rank, call: BoundCall) -> None:
        rows = rank.read(HIDDEN)
        if len(rows) != sum(self.step.tokens[member] for member in call.members):
            raise PlanError(f"{_text(call)}: rank {rank.number} does not have the rows of ranks {_set(call.members)}")
        wanted = [chosen for member in call.members for chosen in self.step.chosen[member]]
        rank.registers = {HIDDEN: [row for row, chosen in zip(rows, wanted, strict=True) if chosen]}
        self.selected[rank.number] = True


def _wire(act: Act) -> Act:
    """What goes over the links: a norm behind an all-reduce is every rank's own affair."""
    return Act.ALL_REDUCE if act is Act.ALL_REDUCE_NORM else act


def _text(call: BoundCall) -> str:
    return f"{call.act.value} at {call.where}"


def _set(ranks: tuple[int, ...]) -> str:
    return "{" + ",".join(map(str, ranks)) + "}"
