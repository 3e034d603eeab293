import pytest

from tokenspeed.engine.spmd.compiler import compile_model
from tokenspeed.engine.spmd.links import Links
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism, PlacementError
from tokenspeed.engine.spmd.plan import COLLECTIVES, Act, Plan

from .models import model


def acts(plan: Plan) -> list[Act]:
    return [call.act for call in plan.calls]


@pytest.mark.parametrize("kinds", [("attention", "mlp"), ("mla", "shared"), ("bias", "moe")])
def test_one_rank_needs_no_collective(kinds: tuple[str, ...]) -> None:
    plan = compile_model(model(*kinds), Mesh.of(Parallelism()))
    block = [Act.NORM, Act.RUN]
    assert acts(plan) == [Act.EMBED, *block, *block, Act.NORM, Act.SELECT, Act.RUN]


def test_small_steps_take_fused_all_reduces() -> None:
    plan = compile_model(model("attention", "mlp"), Mesh.of(Parallelism(2)), tokens=8)
    fused = [Act.ALL_REDUCE_NORM, Act.RUN]
    assert acts(plan) == [Act.EMBED, *fused, *fused, Act.ALL_REDUCE_NORM, Act.SELECT, Act.RUN, Act.GATHER_COLUMNS]


def test_slow_norms_are_shared_out() -> None:
    slow = Links(memory_bandwidth=1e6)
    plan = compile_model(model("attention", "mlp"), Mesh.of(Parallelism(2)), tokens=8, links=slow)
    assert Act.REDUCE_SCATTER in acts(plan)
    assert Act.ALL_REDUCE_NORM not in acts(plan)


def test_experts_over_the_world_gather_rows_of_all_attention_groups() -> None:
    plan = compile_model(model("attention", "moe"), Mesh.of(Parallelism(2, 2)), tokens=8)
    gathered = [call for call in plan.calls if call.act is Act.ALL_GATHER and call.where.endswith("mlp")]
    assert [call.groups.parts for call in gathered if call.groups] == [((0, 1, 2, 3),)]


def test_data_parallel_attention_with_replicated_weights_needs_no_collective() -> None:
    plan = compile_model(model("attention", "mlp"), Mesh.of(Parallelism(1, 4)))
    assert not set(COLLECTIVES) & set(acts(plan))


def test_the_same_model_and_mesh_give_the_same_plan() -> None:
    first, second = (compile_model(model("mla", "shared"), Mesh.of(Parallelism(2, 2))) for _ in range(2))
    assert first == second


def test_heads_that_do_not_fit_are_refused_with_what_does() -> None:
    with pytest.raises(PlacementError, match=r"layers\.0\.self_attn.*q_proj.*--tp is 3.*use 1, 2, 4, 6, 8"):
        compile_model(model("attention", kv_heads=2), Mesh.of(Parallelism(3)))
