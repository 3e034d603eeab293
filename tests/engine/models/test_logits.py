"""Logits of every architecture equal those of transformers, in one piece, in chunks, and in every form of attention."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokenspeed.engine.models.layers import latent_attention

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
    from tokenspeed.engine.checkpoints.loader import load_checkpoint

    pair = pairs(family)
    model = load_checkpoint(str(pair.directory)).build(torch.bfloat16, "cpu")
    half = logits(model, IDS)
    assert half.dtype == torch.bfloat16
    similarity: Any = torch.nn.functional.cosine_similarity(half.float(), expected(pair))
    assert similarity.median() > 0.99  # routing flips a few tokens of a random model
