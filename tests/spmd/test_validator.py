from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.engine.spmd.compiler import compile_model
from tokenspeed.engine.spmd.derivation import Derivation
from tokenspeed.engine.spmd.links import Links
from tokenspeed.engine.spmd.mesh import Extent, Mesh, Parallelism, PlacementError, divisors
from tokenspeed.engine.spmd.placements import Replicated
from tokenspeed.engine.spmd.plan import COLLECTIVES, Act, Plan
from tokenspeed.engine.spmd.proof.machine import PlanError
from tokenspeed.engine.spmd.proof.mappings import mappings
from tokenspeed.engine.spmd.proof.mutants import Mutant, mutants, with_module, with_weight
from tokenspeed.engine.spmd.proof.validator import Load, run, validate, validate_programs

from .models import model

STACKS = (("attention", "mlp"), ("mla", "shared"), ("bias", "moe", "attention", "mlp"))
FAST, SLOW_MEMORY = Links(), Links(memory_bandwidth=1e6)
"""With the second it pays to norm shares of rows, so that other plans are chosen."""


@pytest.mark.parametrize("kinds", STACKS)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_plans_of_every_mapping_equal_one_device(kinds: tuple[str, ...], world: int) -> None:
    stack = model(*kinds)
    for parallelism in list(mappings(stack, world))[:: 1 if world < 4 else 7]:
        validate(compile_model(stack, Mesh.of(parallelism), links=FAST, tokens=16))
        validate(compile_model(stack, Mesh.of(parallelism), links=SLOW_MEMORY, tokens=16))


@st.composite
def placed(draw: st.DrawFn) -> tuple[Plan, Load]:
    tp, dp = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.integers(1, 3))
    world = tp * dp
    ep = draw(st.sampled_from([d for d in divisors(world) if d <= 8]))
    size = st.sampled_from([d for d in divisors(world) if d <= 12])
    inner = draw(st.sampled_from([d for d in divisors(world // ep) if d <= 12]))
    parallelism = Parallelism(tp, dp, draw(size), ep, inner, draw(size))
    links = draw(st.sampled_from([FAST, SLOW_MEMORY, Links(shift_latency=0), Links(all_reduce_latency=1)]))
    kinds = draw(st.sampled_from(STACKS))
    plan = compile_model(model(*kinds), Mesh.of(parallelism), links=links, tokens=draw(st.sampled_from([1, 64, 4096])))
    tokens = draw(st.lists(st.integers(0, 9), min_size=dp, max_size=dp))
    sampled = tuple(tuple(sorted(draw(st.sets(st.integers(0, n - 1))))) if n else () for n in tokens)
    return plan, Load(tuple(tokens), sampled)


@settings(max_examples=60, deadline=None)
@given(placed())
def test_any_load_gives_the_logits_of_one_device_and_equal_logs(example: tuple[Plan, Load]) -> None:
    plan, load = example
    programs = [plan.bind(rank) for rank in range(plan.mesh.world)]
    machine = run(plan, programs, load, Derivation(plan.mesh, plan.attention))
    for rank, log in enumerate(machine.log):
        for other in range(rank):
            between = [[entry for entry in machine.log[r] if {rank, other} <= set(entry[1])] for r in (rank, other)]
            assert between[0] == between[1]
        assert len(log) == sum(1 for call in programs[rank] if call.act in COLLECTIVES)


def test_axes_with_any_strides_are_placed() -> None:
    usual = Mesh.of(Parallelism(2, 2, ep=2))
    strided = Mesh(4, {**usual.axes, "dense_tp": Extent(2, 2), "ep": Extent(2, 1), "expert_tp": Extent(2, 2)})
    plan = compile_model(model("attention", "mlp", "attention", "shared"), strided)
    assert any(call.groups and call.groups.parts == ((0, 2), (1, 3)) for call in plan.calls)
    validate(plan)


@pytest.mark.parametrize("kinds", STACKS)
@pytest.mark.parametrize("parallelism", [Parallelism(2), Parallelism(1, 2, ep=2, vocab_tp=2)], ids=["tp", "dp"])
@pytest.mark.parametrize("links", [FAST, SLOW_MEMORY], ids=["fast", "slow memory"])
def test_every_mutant_is_refused(kinds: tuple[str, ...], parallelism: Parallelism, links: Links) -> None:
    plan = compile_model(model(*kinds), Mesh.of(parallelism), links=links, tokens=16)
    made = list(mutants(plan))
    assert {mutant.family for mutant in made} >= {"dropped", "wrong slice", "left out by one rank"}
    assert [passed(mutant) for mutant in made if mutant.noticed() is None] == []


def passed(mutant: Mutant) -> str:
    return f"{mutant.family}: {mutant.text}"


def find(plan: Plan, act: Act, where: str) -> int:
    return next(i for i, call in enumerate(plan.calls) if call.act is act and call.where.endswith(where))


def test_a_missing_sum_is_reported_with_rank_row_and_term() -> None:
    plan = compile_model(model("attention", "mlp"), Mesh.of(Parallelism(2)), tokens=16)
    at = find(plan, Act.ALL_REDUCE_NORM, "self_attn")
    calls = [*plan.calls[:at], replace(plan.calls[at], act=Act.NORM), *plan.calls[at + 1 :]]
    message = (
        r"before model\.layers\.1\.norm\.weight: row 0 of rank 0, which should be row 0 of attention group 0, lacks "
        r"model\.layers\.0\.self_attn model\.layers\.0\.self_attn\.o_proj\.weight, has .*\[input 0:16 of 32\]"
    )
    with pytest.raises(PlanError, match=message):
        validate(plan.with_calls(calls))


def test_a_rank_that_skips_a_collective_is_reported_as_the_one_that_is_waited_for() -> None:
    plan = compile_model(model("attention", "mlp"), Mesh.of(Parallelism(1, 2, vocab_tp=2)), tokens=16)
    programs = [plan.bind(rank) for rank in range(2)]
    programs[1] = tuple(call for call in programs[1] if call.act is not Act.GATHER_COLUMNS)
    with pytest.raises(PlanError, match=r"all-gather of columns at head: rank 0 waits for ranks \{0,1\}, but rank 1"):
        validate_programs(plan, programs)


def test_a_shared_expert_that_every_rank_adds_whole_is_refused() -> None:
    stack = model("shared")
    (block,) = stack.blocks
    changed = block.module.output
    for weight in block.module.weights:
        if "shared_experts" in weight.name:
            changed = with_weight(changed, replace(weight, placement=Replicated()))
    stack = with_module(stack, block.module, replace(block.module, output=changed))
    with pytest.raises(PlacementError, match=r"layers\.0\.mlp, rank 0: add: .* count the former once for each rank"):
        compile_model(stack, Mesh.of(Parallelism(2)))
