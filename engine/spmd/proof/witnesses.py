"""For each rule of the validator a wrong plan that only this rule refuses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ..blocks import GroupedQuery, Latent, MixtureOfExperts, embedding, gated_mlp, lm_head
from ..compiler import compile_model
from ..contract import Block, Model, Module, linear, pointwise, rows
from ..derivation import NO_RULES, Derivation, Rule
from ..links import Links
from ..mesh import DENSE, TENSOR, Mesh, Parallelism, PlacementError
from ..placements import Column, Placement, Replicated, Row, Weight
from ..plan import HIDDEN, Act, BoundCall, Plan
from .mutants import with_weight
from .validator import Load, run, validate, validate_programs

HIDDEN_WIDTH: Final = 16
SHARED_OUT: Final = Links(memory_bandwidth=1e6)
"""Norms so slow that each rank norms its own share, by reduce-scatter and all-gather."""
ATTENTION: Final = GroupedQuery(HIDDEN_WIDTH, 8, 8, 4).module("layers.0.self_attn")
MLP: Final = gated_mlp("layers.1.mlp", HIDDEN_WIDTH, 24)


@dataclass(frozen=True, slots=True)
class Witness:
    """A wrong plan; `check` raises PlacementError unless the rules that it is given leave it alone."""

    rule: Rule
    text: str
    check: Callable[[frozenset[Rule]], None]

    def refused(self) -> str | None:
        """What refuses it under all rules; None if it passes."""
        return _refusal(self.check, NO_RULES)

    def passes_without(self) -> bool:
        """Whether it passes once its rule is left out: then no other rule covers for it."""
        return _refusal(self.check, frozenset({self.rule})) is None


def _refusal(check: Callable[[frozenset[Rule]], None], ignored: frozenset[Rule]) -> str | None:
    try:
        check(ignored)
    except PlacementError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class Rotated(Placement):
    """Every rank holds the slice of the rank after it: all parts are there, each at the wrong place."""

    right: Placement

    @property
    def axes(self) -> tuple[str, ...]:
        """As they should be."""
        return self.right.axes

    def slices(self, shape: tuple[int, ...], mesh: Mesh, rank: int) -> tuple[range, ...]:
        """The neighbour's."""
        group = mesh.groups(self.axes).of(rank)
        return self.right.slices(shape, mesh, group[(group.index(rank) + 1) % len(group)])


def _model(*modules: Module) -> Model:
    blocks = tuple(Block(Weight(f"layers.{i}.norm", (HIDDEN_WIDTH,)), module) for i, module in enumerate(modules))
    head = lm_head(40, HIDDEN_WIDTH)
    return Model("witness", HIDDEN_WIDTH, embedding(40, HIDDEN_WIDTH), blocks, Weight("norm", (HIDDEN_WIDTH,)), head)


def _plan(*modules: Module, over: Parallelism | None = None, links: Links | None = None) -> Plan:
    return compile_model(_model(*modules), Mesh.of(over or Parallelism(2)), links=links, fuse=False, tokens=16)


def _compiled(module: Module, over: Parallelism, links: Links | None = None) -> Callable[[frozenset[Rule]], None]:
    """The plan of a compiler that does not know the rule."""

    def check(ignored: frozenset[Rule]) -> None:
        validate(compile_model(_model(module), Mesh.of(over), links=links, tokens=16, ignored=ignored), ignored=ignored)

    return check


def _weight(module: Module, ending: str, wrong: Callable[[Placement], Placement]) -> Module:
    """The module with one weight placed otherwise."""
    weight = next(weight for weight in module.weights if weight.name.endswith(ending))
    return replace(module, output=with_weight(module.output, replace(weight, placement=wrong(weight.placement))))


def _low_rank() -> Module:
    """A function of a sum that is owed: silu(B A x) with A split by columns and B by rows."""
    x = rows(HIDDEN_WIDTH)
    low = linear(x, Weight("layers.0.a", (8, HIDDEN_WIDTH), Column(DENSE)))
    high = linear(low, Weight("layers.0.b", (HIDDEN_WIDTH, 8), Row(DENSE)))
    return Module("layers.0.adapter", "adapter", pointwise("silu", high))


def _share_of_rows(ignored: frozenset[Rule]) -> None:
    """Attention with whole weights on every rank, planned as if rows did not depend on each other."""
    whole = ATTENTION
    for weight in ATTENTION.weights:
        whole = replace(whole, output=with_weight(whole.output, replace(weight, placement=Replicated())))
    mesh = Mesh.of(Parallelism(2))
    blind = frozenset({Rule.WHOLE_REQUEST})
    plan = compile_model(_model(whole), mesh, links=SHARED_OUT, tokens=16, ignored=blind)
    validate(plan, ignored=ignored)


def _without(act: Act, where: str) -> Callable[[frozenset[Rule]], None]:
    plan = _plan(ATTENTION, MLP)
    at = next(i for i, call in enumerate(plan.calls) if call.act is act and call.where == where)
    return lambda ignored: validate(plan.without(at), ignored=ignored)


def _twice(ignored: frozenset[Rule]) -> None:
    plan = _plan(ATTENTION, MLP)
    at = next(i for i, call in enumerate(plan.calls) if call.act is Act.ALL_REDUCE)
    validate(plan.with_calls([*plan.calls[: at + 1], *plan.calls[at:]]), ignored=ignored)


def _one_rank(
    plan: Plan, rank: int, change: Callable[[BoundCall], tuple[BoundCall, ...]], load: Load | None = None
) -> Callable[[frozenset[Rule]], None]:
    programs = [plan.bind(number) for number in range(plan.mesh.world)]
    programs[rank] = tuple(new for call in programs[rank] for new in change(call))

    def check(ignored: frozenset[Rule]) -> None:
        if load is None:
            validate_programs(plan, programs, ignored=ignored)
        else:
            run(plan, programs, load, Derivation(plan.mesh, plan.attention, ignored), ignored)

    return check


def _sums_and_slices(call: BoundCall) -> tuple[BoundCall, ...]:
    """The same result by another collective, which the other ranks do not make."""
    if call.act is not Act.REDUCE_SCATTER:
        return (call,)
    own = BoundCall(Act.SLICE, call.where, (0,), call.members, HIDDEN)
    return (replace(call, act=Act.ALL_REDUCE), own)


def _gathers_more(call: BoundCall) -> tuple[BoundCall, ...]:
    """The same rows out of a larger group, which the other ranks do not call on."""
    if call.act is not Act.ALL_GATHER or call.members != (0, 1):
        return (call,)
    everyone = (0, 1, 2, 3)
    return (replace(call, members=everyone), BoundCall(Act.SLICE, call.where, (0, 1), everyone, call.register))


def _skips_logits(call: BoundCall) -> tuple[BoundCall, ...]:
    return () if call.act is Act.GATHER_COLUMNS else (call,)


def witnesses() -> list[Witness]:
    """One for each rule."""
    latent = Latent(HIDDEN_WIDTH, 8, 12, 8, 4, 2, 6).module("layers.0.self_attn")
    moe = MixtureOfExperts(HIDDEN_WIDTH, 8, 12).module("layers.0.mlp")
    over_experts = Parallelism(2, ep=2)
    split_norm = _weight(latent, "q_a_proj.weight", lambda _: Column(TENSOR))
    norms_share = _plan(ATTENTION, MLP, links=SHARED_OUT)
    four = _plan(ATTENTION, MLP, over=Parallelism(2, 2), links=SHARED_OUT)
    idle = _plan(ATTENTION, over=Parallelism(1, 2, vocab_tp=2))
    return [
        Witness(Rule.WHOLE_REQUEST, "attention runs on each rank's share of the rows", _share_of_rows),
        Witness(
            Rule.PAIRED_HEADS,
            "ranks load the keys of their neighbour's heads",
            _compiled(_weight(ATTENTION, "k_proj.weight", Rotated), Parallelism(2)),
        ),
        Witness(
            Rule.MATCHED_COLUMNS,
            "ranks load the output matrix of their neighbour's heads",
            _compiled(_weight(ATTENTION, "o_proj.weight", Rotated), Parallelism(2)),
        ),
        Witness(
            Rule.MATCHED_EXPERTS,
            "ranks load the down matrix of their neighbour's experts",
            _compiled(_weight(moe, "down_proj.weight", Rotated), over_experts),
        ),
        Witness(Rule.ALL_COLUMNS, "the query latent is normed in parts", _compiled(split_norm, Parallelism(2))),
        Witness(Rule.OWED_IS_LINEAR, "silu of a sum before it is paid", _compiled(_low_rank(), Parallelism(2))),
        Witness(Rule.EACH_PART_ONCE, "an all-reduce is made twice", _twice),
        Witness(Rule.EACH_PART, "an all-reduce is left out", _without(Act.ALL_REDUCE, MLP.name)),
        Witness(
            Rule.SAME_CALL,
            "rank 0 calls all-reduce and slices, the other reduce-scatter",
            _one_rank(norms_share, 0, _sums_and_slices),
        ),
        Witness(
            Rule.SAME_RANKS,
            "rank 0 gathers from all ranks and slices, the others within their group",
            _one_rank(four, 0, _gathers_more),
        ),
        Witness(
            Rule.ALL_TAKE_PART,
            "a rank without sampled rows leaves out the gathering of logits",
            _one_rank(idle, 0, _skips_logits, Load((2, 3), ((), (2,)))),
        ),
        Witness(Rule.ALL_LOGITS, "logits are not gathered", _without(Act.GATHER_COLUMNS, "head")),
    ]
