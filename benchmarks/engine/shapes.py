"""The models that are measured: shapes of public checkpoints with random weights, made on the device."""

from __future__ import annotations

import torch

from tokenspeed.engine.models.config import LlamaConfig, RopeConfig
from tokenspeed.engine.models.llama import LlamaModel
from tokenspeed.engine.models.weights import DummyWeights

LLAMA = {
    "llama-3-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=500000.0, dim=128),
        max_position_embeddings=131072,
        tie_word_embeddings=False,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=100000.0, dim=64),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
}


def build(name: str, device: torch.device) -> LlamaModel:
    """The model of that name in bfloat16."""
    return LlamaModel(LLAMA[name], DummyWeights(), torch.bfloat16, device)


def weight_bytes(config: LlamaConfig) -> int:
    """Bytes of weights that a step of few rows reads: all matrices, and of the embedding next to nothing."""
    c = config
    layer = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    layer += 3 * c.hidden_size * c.intermediate_size
    return 2 * (c.num_layers * layer + c.vocab_size * c.hidden_size)


def token_bytes(config: LlamaConfig) -> int:
    """Bytes of keys and values that a token has in the cache."""
    return 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
