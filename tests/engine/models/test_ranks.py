"""Real models on several ranks: every architecture computes what one rank computes."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.models.decoder import Decoder
from tokenspeed.engine.models.layers.module import Step
from tokenspeed.engine.models.model import RowLengths, StepInputs
from tokenspeed.engine.run.kv_cache import KVCache
from tokenspeed.engine.spmd.agreement import agreed
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism, PlacementError
from tokenspeed.engine.spmd.plan import StepRows
from tokenspeed.engine.spmd.proof.mappings import mappings
from tokenspeed.engine.spmd.runtime.place import Place
from tokenspeed.engine.spmd.runtime.threads import Links, World

from .tiny import FAMILIES, VOCABULARY, error, logits, save

pytestmark = pytest.mark.serve

FULL = os.environ.get("TOKENSPEED_PARITY") == "full"
TOLERANCE = 1e-5
"""Relative L2 norm in float32."""
LENGTHS = (37, 5, 0, 12)
"""Tokens of each attention group; one is idle."""
PROMPTS = [torch.randint(0, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    known: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp(name)
            save(known[name], name)
        return known[name]

    return directory


@pytest.fixture(autouse=True)
def one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_rank(directory: Path, mesh: Mesh, links: Links) -> torch.Tensor:
    """The logits of all tokens of a rank's attention group."""
    place = Place(mesh, links.rank, lambda plan: links)
    model = load_checkpoint(str(directory)).build(torch.float32, "cpu", place)
    assert isinstance(model, Decoder)
    groups = mesh.groups(("tp",)).parts
    own = next(i for i, group in enumerate(groups) if links.rank in group)
    if len(groups) == 1:  # as the runner calls it, in two chunks
        whole: torch.Tensor = logits(model, PROMPTS[0], [30, 7])
        return whole
    tokens = tuple(LENGTHS[: len(groups)])
    rows = StepRows.of(
        model.stack.plan.attention,
        agreed("tokens", [tokens]),
        agreed("sampled", [tuple(tuple(range(n)) for n in tokens)]),
    )
    count = tokens[own]
    cache = KVCache(model.cache_layout, 2, 64, model.device)
    inputs = StepInputs(
        positions=torch.arange(count),
        slot_mapping=torch.arange(count),
        block_table=torch.zeros(1, 1, dtype=torch.int32),
        context_lens=torch.tensor([count], dtype=torch.int32),
        query_start=torch.tensor([0, count], dtype=torch.int32),
        lengths=RowLengths(np.array([count], dtype=np.int32), np.array([count], dtype=np.int32)),
    )
    with torch.inference_mode():
        hidden = model.stack.forward(PROMPTS[: len(groups)], Step(inputs, cache), rows)
        return model.stack.logits(model.stack.select(hidden, rows), None, rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("world", [2, 4])
def test_every_architecture_computes_on_ranks_what_it_computes_alone(
    directories: Callable[[str], Path], family: str, world: int
) -> None:
    checkpoint = load_checkpoint(str(directories(family)))
    one = checkpoint.build(torch.float32, "cpu")
    assert isinstance(one, Decoder)
    wanted = [logits(one, prompt) if len(prompt) else torch.zeros(0, VOCABULARY) for prompt in PROMPTS]
    ran = 0
    for number, parallelism in enumerate(mappings(one.declared, world)):
        if not FULL and number % (11 if world == 2 else 97):  # every mapping is compiled and validated elsewhere
            continue
        mesh = Mesh.of(parallelism)
        try:
            found = World(world).run(partial(on_rank, directories(family), mesh))
        except PlacementError as refusal:
            assert "; use " in str(refusal)
            continue
        ran += 1
        for group, expected in zip(mesh.groups(("tp",)).parts, wanted, strict=False):
            for rank in group:
                assert found[rank].shape == expected.shape
                if len(expected):
                    assert error(found[rank], expected) <= TOLERANCE, f"{parallelism}, {rank=}"
    assert ran


def test_a_world_that_does_not_fit_is_refused_when_the_model_is_built(directories: Callable[[str], Path]) -> None:
    checkpoint = load_checkpoint(str(directories("qwen3")))
    with pytest.raises(PlacementError, match=r"--tp is 3, but 4 query heads share 2 key and value heads; use 1, 2, 4"):
        checkpoint.build(torch.float32, "cpu", Place(Mesh.of(Parallelism(3)), 0))
