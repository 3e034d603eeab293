"""Wrong plans and wrong slices made from right ones: the validator must refuse every one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..contract import Block, Model, Module, Value
from ..derivation import NO_RULES, Rule
from ..mesh import Groups, Mesh, PlacementError
from ..placements import Once, Placement, Replicated, Weight
from ..plan import COLLECTIVES, HIDDEN, Act, BoundCall, Call, Plan
from .validator import validate, validate_programs


@dataclass(frozen=True)
class Mutant:
    """A change, and how to judge it: `check` raises PlacementError if it is noticed."""

    family: str
    text: str
    check: Callable[[frozenset[Rule]], None]

    def noticed(self, ignored: frozenset[Rule] = NO_RULES) -> str | None:
        """What refuses it; None if it passes."""
        try:
            self.check(ignored)
        except PlacementError as error:
            return str(error)
        return None


def mutants(plan: Plan) -> Iterator[Mutant]:
    """All mutants of a plan: of its calls on all ranks, of one rank's calls, and of the slices that ranks load."""
    yield from call_mutants(plan)
    yield from rank_mutants(plan)
    yield from slice_mutants(plan)


SUMS = (Act.ALL_REDUCE, Act.ALL_REDUCE_NORM, Act.REDUCE_SCATTER)


def call_mutants(plan: Plan) -> Iterator[Mutant]:
    """Collectives and slices dropped, doubled, exchanged, over other groups, or before what they follow."""
    for at, call in enumerate(plan.calls):
        before, after = plan.calls[:at], plan.calls[at + 1 :]
        if call.act is Act.SLICE:
            yield _calls(plan, "dropped", call, (*before, *after))
        if call.act not in COLLECTIVES:
            continue
        tail: tuple[Call, ...] = ()
        if call.act is Act.ALL_REDUCE_NORM:
            tail = (replace(call, act=Act.NORM, groups=None),)
        bare = replace(call, act=Act.ALL_REDUCE, norm=None) if tail else call
        yield _calls(plan, "dropped", call, (*before, *tail, *after))
        yield _calls(plan, "doubled", call, (*before, bare, bare, *tail, *after))
        if call.act in SUMS:
            other = Act.ALL_REDUCE if call.act is Act.REDUCE_SCATTER else Act.REDUCE_SCATTER
            yield _calls(plan, "exchanged", call, (*before, replace(bare, act=other), *tail, *after))
            yield _calls(plan, "exchanged", call, (*before, replace(bare, act=Act.ALL_GATHER), *tail, *after))
        for groups in other_groups(plan, call):
            yield _calls(plan, "wrong group", call, (*before, replace(call, groups=groups), *after))
        if before and before[-1].act is Act.RUN and not _commutes(plan, before[-1]):
            yield _calls(plan, "too early", call, (*before[:-1], bare, before[-1], *tail, *after))
        if tail:
            yield _calls(plan, "too late", call, (*before, *tail, bare, *after))
        elif (
            after and after[0].act in (Act.NORM, Act.RUN) and call.register == HIDDEN and not _commutes(plan, after[0])
        ):
            yield _calls(plan, "too late", call, (*before, after[0], call, *after[1:]))


def _commutes(plan: Plan, call: Call) -> bool:
    """Whether a module treats rows one by one, with whole weights: then rows may be gathered before or after it."""
    module = call.module
    return module is not None and not module.needs_whole_requests and plan.mesh.size(module.axes) == 1


def other_groups(plan: Plan, call: Call) -> list[Groups]:
    """Every other partition of the ranks into neighbours, and into every n-th."""
    world = plan.mesh.world
    found = []
    for size in (n for n in range(2, world + 1) if world % n == 0):
        blocks = [tuple(range(i, i + size)) for i in range(0, world, size)]
        strided = [tuple(range(i, world, world // size)) for i in range(world // size)]
        found += [Groups(tuple(blocks)), Groups(tuple(strided))]
    return [groups for groups in dict.fromkeys(found) if groups != call.groups]


def _calls(plan: Plan, family: str, call: Call, calls: tuple[Call, ...]) -> Mutant:
    mutant = plan.with_calls(calls)
    return Mutant(family, f"{call.act.value} at {call.where}", lambda ignored: validate(mutant, ignored=ignored))


def rank_mutants(plan: Plan) -> Iterator[Mutant]:
    """One rank that leaves out, repeats or exchanges a collective while the others keep to the plan."""
    programs = [plan.bind(rank) for rank in range(plan.mesh.world)]
    for rank in {0, plan.mesh.world - 1}:
        for at, call in enumerate(programs[rank]):
            if call.act not in COLLECTIVES:
                continue
            before, after = programs[rank][:at], programs[rank][at + 1 :]
            tail = (replace(call, act=Act.NORM, members=()),) if call.act is Act.ALL_REDUCE_NORM else ()
            yield _rank(plan, "left out by one rank", programs, rank, (*before, *tail, *after), call)
            yield _rank(plan, "repeated by one rank", programs, rank, (*before, call, call, *after), call)
            fewer = replace(call, members=call.members[:-1] if rank == call.members[0] else call.members[1:])
            yield _rank(plan, "wrong group on one rank", programs, rank, (*before, fewer, *after), call)


def _rank(
    plan: Plan,
    family: str,
    programs: list[tuple[BoundCall, ...]],
    rank: int,
    calls: tuple[BoundCall, ...],
    call: BoundCall,
) -> Mutant:
    changed = [*programs[:rank], calls, *programs[rank + 1 :]]
    return Mutant(
        family,
        f"rank {rank}: {call.act.value} at {call.where}",
        lambda ignored: validate_programs(plan, changed, ignored=ignored),
    )


@dataclass(frozen=True, slots=True)
class Shifted(Placement):
    """A wrong placement: rank `rank` holds the slice that belongs to the rank after it."""

    right: Placement
    rank: int

    @property
    def axes(self) -> tuple[str, ...]:
        """As they should be."""
        return self.right.axes

    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """The slice of a neighbour."""
        if rank == self.rank and mesh.world > 1:
            group = mesh.groups(self.axes).of(rank)
            rank = group[(group.index(rank) + 1) % len(group)]
        return self.right.slices(shape, mesh, rank)


def slice_mutants(plan: Plan) -> Iterator[Mutant]:
    """One rank loads the slice of another, or every rank loads what just one should."""
    modules = {module.kind: module for module in plan.model.modules}
    for module in modules.values():
        for weight in module.weights:
            if not weight.placement.axes or plan.mesh.size(weight.placement.axes) == 1:
                continue
            wrong: Placement = Replicated() if isinstance(weight.placement, Once) else Shifted(weight.placement, 0)
            if wrong != Replicated() and _same(plan.mesh, weight, replace(weight, placement=wrong)):
                continue  # neighbours hold the same slice: nothing is wrong
            yield Mutant(
                "wrong slice",
                weight.name,
                lambda ignored, module=module, weight=weight, wrong=wrong: _reloaded(  # type: ignore[misc]
                    plan, module, replace(weight, placement=wrong), ignored
                ),
            )


def _same(mesh: Mesh, one: Weight, other: Weight) -> bool:
    return all(one.slices(mesh, rank) == other.slices(mesh, rank) for rank in range(mesh.world))


def _reloaded(plan: Plan, module: Module, weight: Weight, ignored: frozenset[Rule]) -> None:
    """Validates the plan with one weight of one module placed otherwise."""
    changed = replace(module, output=with_weight(module.output, weight))
    model = with_module(plan.model, module, changed)
    calls = [replace(call, module=changed) if call.module is module else call for call in plan.calls]
    validate(replace(plan, model=model, calls=tuple(calls)), ignored=ignored)


def with_weight(value: Value, weight: Weight) -> Value:
    """The dataflow with the weight of this name replaced."""
    done: dict[int, Value] = {}
    for node in value.nodes():
        arguments = tuple(done[id(argument)] for argument in node.arguments)
        weights = tuple(weight if w.name == weight.name else w for w in node.weights)
        done[id(node)] = replace(node, arguments=arguments, weights=weights)
    return done[id(value)]


def with_module(model: Model, old: Module, new: Module) -> Model:
    """The model with one module replaced."""
    return replace(
        model,
        embed=new if model.embed is old else model.embed,
        blocks=tuple(Block(b.norm, new if b.module is old else b.module) for b in model.blocks),
        head=new if model.head is old else model.head,
    )
