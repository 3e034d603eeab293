"""Runs a plan on all ranks with symbols instead of numbers and compares it with one device.

Every rank runs its own list of calls until it meets a collective, and waits there for the others, as on a real machine.
A row is a formal sum of terms: a module applied to a row (attention: to all rows of a request) is a new term that
equals no other, a norm likewise. Equal sums therefore mean equal values for any weights and any functions that keep the
laws which the model declares. How reals are rounded, the kernels and the library of collectives are outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..agreement import agreed
from ..contract import Model
from ..derivation import NO_RULES, Derivation, Known, Rule
from ..placements import Weight
from ..plan import BoundCall, Plan, StepRows
from .machine import Functions, Machine, PlanError, Rank, Rows
from .sums import Sums, difference

Name = tuple[int, int]
"""A row: its attention group and its place there."""


@dataclass(frozen=True, slots=True)
class Load:
    """Rows of each attention group in a step, and which of them are sampled."""

    tokens: tuple[int, ...]
    sampled: tuple[tuple[int, ...], ...]


def loads(groups: int) -> tuple[Load, ...]:
    """Ragged, with idle groups and groups that sample nothing; and all idle but the last."""
    ragged = ((5, (1, 4)), (3, (0, 1, 2)), (0, ()), (1, (0,)), (2, ()), (0, ()), (4, (3,)), (1, ()))
    uneven = [ragged[group % len(ragged)] for group in range(groups)]
    idle: list[tuple[int, tuple[int, ...]]] = [(0, ())] * (groups - 1) + [(2, (1,))]
    return tuple(Load(tuple(n for n, _ in rows), tuple(chosen for _, chosen in rows)) for rows in (uneven, idle))


def validate(plan: Plan, *, ignored: frozenset[Rule] = NO_RULES, known: Known | None = None) -> None:
    """Raises PlanError unless every rank of every attention group ends with the logits that one device computes.

    `ignored`: rules that are left out, to show what they are good for. `known`: see `Derivation`.
    """
    derivation = Derivation(plan.mesh, plan.attention, ignored, known)
    validate_programs(
        plan, [plan.bind(rank) for rank in range(plan.mesh.world)], derivation=derivation, ignored=ignored
    )


def signature(plan: Plan, derivation: Derivation) -> tuple[object, ...]:
    """What the outcome of a validation depends on: plans of equal signatures are both right or both wrong.

    Names of modules, sizes of weights and widths are left out; the order of calls, groups, and which parts of its sums
    each rank computes are in it.
    """
    calls = []
    for call in plan.calls:
        what: object = None
        if call.module is not None:
            what = (call.module.needs_whole_requests, derivation.derive(call.module).shape)
        calls.append((call.act.name, call.groups, call.source, call.register, call.norm is not None, what))
    return (plan.attention, tuple(calls))


def validate_programs(
    plan: Plan,
    programs: Sequence[tuple[BoundCall, ...]],
    *,
    derivation: Derivation | None = None,
    ignored: frozenset[Rule] = NO_RULES,
) -> None:
    """The same for any lists of calls, one for each rank, which need not come from the plan."""
    derivation = derivation or Derivation(plan.mesh, plan.attention, ignored)
    for load in loads(len(plan.attention.parts)):
        run(plan, programs, load, derivation, ignored)


def run(
    plan: Plan,
    programs: Sequence[tuple[BoundCall, ...]],
    load: Load,
    derivation: Derivation,
    ignored: frozenset[Rule] = NO_RULES,
) -> Machine:
    """One step under one load; returns the machine after it. Raises PlanError."""
    machine, reference = prepare(plan, programs, load, derivation, ignored)
    machine.run()
    for g, group in enumerate(plan.attention):
        wanted = [reference.logits[g, place] for place in load.sampled[g]]
        for number in group:
            _compare_logits(machine.ranks[number], wanted, reference, ignored)
    return machine


def prepare(
    plan: Plan,
    programs: Sequence[tuple[BoundCall, ...]],
    load: Load,
    derivation: Derivation,
    ignored: frozenset[Rule] = NO_RULES,
) -> tuple[Machine, "Reference"]:
    """The ranks before the step, and what one device computes of it."""
    step = StepRows.of(plan.attention, agreed("tokens", [load.tokens]), agreed("sampled", [load.sampled]))
    functions = Functions(Sums(ignored), ignored)
    reference = Reference(plan.model, derivation.alone(), load, functions)
    shares: list[list[Name]] = [[] for _ in programs]
    for g, group in enumerate(plan.attention):
        names = [(g, place) for place in range(load.tokens[g])]
        for rank in group:
            shares[rank], names = names[: step.tokens[rank]], names[step.tokens[rank] :]
    return Machine(programs, derivation, step, shares, functions, reference.check), reference


def _compare_logits(rank: Rank, wanted: Rows, reference: "Reference", ignored: frozenset[Rule]) -> None:
    found = rank.registers.get("hidden", [])
    if len(found) != len(wanted):
        raise PlanError(f"at the end rank {rank.number} has {len(found)} rows of logits, wanted {len(wanted)}")
    if wanted and rank.columns is not None and Rule.ALL_LOGITS not in ignored:
        raise PlanError(
            f"at the end rank {rank.number} has logits {rank.columns.start}:{rank.columns.stop} of {rank.width}"
        )
    for place, (want, have) in enumerate(zip(wanted, found, strict=True)):
        if want != have:
            raise PlanError(f"at the end row {place} of rank {rank.number} {reference.difference(want, have)}")


class Reference:
    """The same step on one device for each attention group."""

    def __init__(self, model: Model, one: Derivation, load: Load, functions: Functions) -> None:
        self.sums = functions.sums
        whole = {module: one.derive(module).local[0] for module in model.modules}
        self.streams: dict[str, dict[int, Name]] = {}
        self.logits: dict[Name, int] = {}
        for g, tokens in enumerate(load.tokens):
            names = [(g, place) for place in range(tokens)]
            stream = [functions.output(model.embed, whole[model.embed], (name,)) for name in names]
            for block in model.blocks:
                self._note(block.norm, stream, names)
                normed = [functions.norm(block.norm, row) for row in stream]
                added = functions.run(block.module, whole[block.module], normed)
                stream = [self.sums.add(old, new) for old, new in zip(stream, added, strict=True)]
            self._note(model.norm, stream, names)
            normed = [functions.norm(model.norm, row) for row in stream]
            self.logits.update(zip(names, functions.run(model.head, whole[model.head], normed), strict=True))

    def _note(self, norm: Weight, stream: Rows, names: list[Name]) -> None:
        self.streams.setdefault(norm.name, {}).update(zip(stream, names, strict=True))

    def check(self, rank: Rank, norm: Weight, rows: Rows) -> None:
        """Every row that is normed is a row of the stream of one device."""
        known = self.streams.get(norm.name, {})
        for place, row in enumerate(rows):
            if row not in known:
                closest = min(known, key=lambda other: self._distance(other, row), default=self.sums.zero)
                group, name = known.get(closest, (0, 0))
                raise PlanError(
                    f"before {norm.name}: row {place} of rank {rank.number}, which should be row {name} of attention "
                    f"group {group}, {self.difference(closest, row)}"
                )

    def _distance(self, one: int, other: int) -> int:
        left, right = self.sums.terms(one), self.sums.terms(other)
        return sum(abs(left.get(term, 0) - right.get(term, 0)) for term in {*left, *right})

    def difference(self, wanted: int, found: int) -> str:
        """What a row lacks and has too much."""
        return difference(self.sums.terms(wanted), self.sums.terms(found))
