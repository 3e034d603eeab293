"""Logits of every architecture equal those of transformers, in one piece, in chunks, and in every form of attention."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.models.layers import latent_attention
from tokenspeed.engine.models.model import Model, RowLengths, StepInputs
from tokenspeed.engine.run.kv_cache import KVCache

from .tiny import FAMILIES, VOCABULARY, Pair, error, logits

pytestmark = pytest.mark.serve

TOLERANCE = 1e-5
"""Relative L2 norm in float32."""

IDS = torch.randint(0, VOCABULARY, (100,), generator=torch.Generator().manual_seed(1))
FULL = os.environ.get("TOKENSPEED_PARITY") == "full"
CHUNKS = [[100], [1] * 4 + [7] * 5 + [61]] + ([[1] * 100, [7] * 14 + [2], [64, 36], [63, 37], [65, 35]] if FULL else [])


def expected(pair: Pair) -> torch.Tensor:
    with torch.inference_mode():
        scores: torch.Tensor = pair.theirs(IDS[None]).logits[0]
    return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(pairs: Callable[[str], Pair], family: str) -> None:
    pair = pairs(family)
    scores = expected(pair)
    for chunks in CHUNKS:
        assert error(logits(pair.ours, IDS, chunks), scores) <= TOLERANCE, chunks
    # That the comparison is worth something: the model looks at its context.
    assert error(logits(pair.ours, IDS.flip(0)).flip(0), scores) > 0.1


@pytest.mark.parametrize("family", ["deepseek-v3", "deepseek-v2-lite"])
@pytest.mark.parametrize("tokens", [1, 8, 64])
def test_prefixes_are_expanded_in_chunks_of_any_size(
    pairs: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, family: str, tokens: int
) -> None:
    monkeypatch.setattr(latent_attention, "PREFIX_TOKENS", tokens)
    pair = pairs(family)
    assert error(logits(pair.ours, IDS, [30, 33, 37]), expected(pair)) <= TOLERANCE


def test_the_absorbed_form_equals_the_expanded_one(
    pairs: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pairs("deepseek-v3").ours
    expanded = logits(ours, IDS)
    monkeypatch.setattr(latent_attention, "NOPE_DIM", 0)  # a size that no kernel takes
    assert error(logits(ours, IDS), expanded) <= TOLERANCE


@pytest.mark.parametrize("family", ["llama", "qwen3-moe", "deepseek-v3", "glm-4.7-flash"])
def test_half_precision_stays_close(pairs: Callable[[str], Pair], family: str) -> None:
    pair = pairs(family)
    model = load_checkpoint(str(pair.directory)).build(torch.bfloat16, "cpu")
    half = logits(model, IDS)
    assert half.dtype == torch.bfloat16
    similarity: Any = torch.nn.functional.cosine_similarity(half.float(), expected(pair))
    assert similarity.median() > 0.99  # routing flips a few tokens of a random model


def ragged(model: Model, sequences: list[torch.Tensor], prefixes: list[int]) -> list[torch.Tensor]:
    """Logits of each sequence behind its prefix, which is cached, all of them in one step."""
    size = 16
    cache = KVCache(model.cache_layout, 40, size, model.device)
    for pool in cache.pools:
        pool.fill_(torch.nan)
    table = torch.randperm(40, generator=torch.Generator().manual_seed(2)).view(len(sequences), -1).int()

    def run(begins: list[int], ends: list[int]) -> torch.Tensor:
        rows = [i for i, (begin, end) in enumerate(zip(begins, ends, strict=True)) if begin < end]
        positions = torch.cat([torch.arange(begins[i], ends[i]) for i in rows])
        row = torch.cat([torch.full((ends[i] - begins[i],), i) for i in rows])
        queries, contexts = [ends[i] - begins[i] for i in rows], [ends[i] for i in rows]
        step = StepInputs(
            positions=positions,
            slot_mapping=table[row, positions // size].long() * size + positions % size,
            block_table=table[rows],
            context_lens=torch.tensor(contexts, dtype=torch.int32),
            query_start=torch.tensor([0, *np.cumsum(queries)], dtype=torch.int32),
            lengths=RowLengths(np.array(queries, dtype=np.int32), np.array(contexts, dtype=np.int32)),
        )
        ids = torch.cat([sequences[i][begins[i] : ends[i]] for i in rows])
        return model.logits(model.forward(ids, step, cache))

    lengths = [len(sequence) for sequence in sequences]
    run([0] * len(sequences), prefixes)
    found = run(prefixes, lengths)
    return list(found.split([n - prefix for n, prefix in zip(lengths, prefixes, strict=True)]))


@pytest.mark.parametrize("family", ["llama", "qwen3-moe", "deepseek-v3", "glm-4.7-flash"])
@pytest.mark.parametrize("chunk", [4, 8192])
def test_rows_of_a_step_do_not_touch_each_other(
    pairs: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, family: str, chunk: int
) -> None:
    """Chunks and single tokens, long prefixes and none: rows without keys in a chunk of the prefixes among them."""
    monkeypatch.setattr(latent_attention, "PREFIX_TOKENS", chunk)
    model = pairs(family).ours
    lengths, prefixes = [20, 51, 70, 33, 9], [0, 50, 47, 16, 8]
    sequences = [torch.randint(0, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    for found, ids, prefix in zip(ragged(model, sequences, prefixes), sequences, prefixes, strict=True):
        assert error(found, logits(model, ids)[prefix:]) <= TOLERANCE
