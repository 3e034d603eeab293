from collections.abc import Iterator
from functools import partial

import pytest
import torch

from tokenspeed.engine.spmd.agreement import Disagreement, Uniform, agreed
from tokenspeed.engine.spmd.compiler import compile_model
from tokenspeed.engine.spmd.contract import Model
from tokenspeed.engine.spmd.links import Links as LinkModel
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism
from tokenspeed.engine.spmd.plan import Plan, StepRows
from tokenspeed.engine.spmd.proof.mappings import mappings
from tokenspeed.engine.spmd.runtime.stack import Stack
from tokenspeed.engine.spmd.runtime.threads import Links, World

from .bodies import Code, run_rank
from .models import model

TOKENS = (5, 0, 3, 1)
SAMPLED = ((1, 4), (), (0, 1, 2), ())


@pytest.fixture(autouse=True)
def one_thread_each() -> Iterator[None]:
    """Ranks are threads: torch's own would fight over the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def step(plan: Plan) -> tuple[list[torch.Tensor], StepRows]:
    """Token ids of each attention group, and the rows of each rank."""
    groups = len(plan.attention.parts)
    generator = torch.Generator().manual_seed(groups)
    ids = [torch.randint(0, 40, (n,), generator=generator) for n in TOKENS[:groups]]
    tokens, sampled = agreed("tokens", [TOKENS[:groups]]), agreed("sampled", [SAMPLED[:groups]])
    return ids, StepRows.of(plan.attention, tokens, sampled)


def on_rank(plan: Plan, links: Links) -> torch.Tensor:
    """The logits of one rank."""
    ids, rows = step(plan)
    return run_rank(plan, links.rank, ids, rows, links)


def alone(stack: Model, ids: torch.Tensor, sampled: tuple[int, ...]) -> torch.Tensor:
    """The logits of one attention group on one device."""
    plan = compile_model(stack, Mesh.of(Parallelism()))
    code = Code(plan.mesh, 0)
    one = Stack(plan, 0, body=code.body, norm=code.norm)
    return one.logits(one.forward([ids], None)[list(sampled)])


@pytest.mark.parametrize("kinds", [("attention", "mlp"), ("mla", "shared"), ("bias", "moe", "mla", "mlp")])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_mapping_computes_what_one_rank_computes(kinds: tuple[str, ...], world: int) -> None:
    stack = model(*kinds, tied=world == 3)
    for number, parallelism in enumerate(mappings(stack, world)):
        if world == 4 and number % 11:  # all are compiled and validated elsewhere
            continue
        slow = LinkModel(memory_bandwidth=1e6) if number % 2 else LinkModel()
        plan = compile_model(stack, Mesh.of(parallelism), links=slow, tokens=16)
        ids, _ = step(plan)
        found = World(world).run(partial(on_rank, plan))
        for g, group in enumerate(plan.attention):
            wanted = alone(stack, ids[g], SAMPLED[g])
            for rank in group:
                torch.testing.assert_close(found[rank], wanted, rtol=1e-10, atol=1e-12, msg=f"{parallelism}, {rank=}")


def test_ranks_that_disagree_are_told_who_has_what() -> None:
    assert agreed("tokens", [(3, 4), (3, 4)]).value == (3, 4)
    with pytest.raises(Disagreement, match=r"tokens differs between ranks: rank 0 has \(3,\); rank 1 has \(4,\)"):
        agreed("tokens", [(3,), (4,)])


def test_a_uniform_value_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="cannot be made by hand"):
        Uniform((3,))


def test_rows_that_are_not_there_cannot_be_sampled() -> None:
    plan = compile_model(model("attention"), Mesh.of(Parallelism(2)))
    with pytest.raises(ValueError, match=r"ranks \(0, 1\) have 3 rows, of which \(3,\) cannot be sampled"):
        StepRows.of(plan.attention, agreed("tokens", [(3,)]), agreed("sampled", [((3,),)]))


def test_a_plan_with_collectives_needs_links_and_rows() -> None:
    plan = compile_model(model("attention"), Mesh.of(Parallelism(2)))
    code = Code(plan.mesh, 0)
    with pytest.raises(ValueError, match="rank 0 of 2 needs a communicator"):
        Stack(plan, 0, body=code.body, norm=code.norm)
