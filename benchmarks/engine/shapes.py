"""The models that are measured: shapes of public checkpoints with random weights, made on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from tokenspeed.engine.models.config import LlamaConfig, RopeConfig
from tokenspeed.engine.models.llama import LlamaModel

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


class RandomTensors(Mapping[str, torch.Tensor]):
    """Weights of a Llama shape, each drawn when it is read: never two copies of a layer at once."""

    def __init__(self, config: LlamaConfig, device: torch.device) -> None:
        c = config
        self._device = device
        self._shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (c.vocab_size, c.hidden_size),
            "model.norm.weight": (c.hidden_size,),
            "lm_head.weight": (c.vocab_size, c.hidden_size),
        }
        for layer in range(c.num_layers):
            for name, shape in {
                "input_layernorm": (c.hidden_size,),
                "self_attn.q_proj": (c.num_heads * c.head_dim, c.hidden_size),
                "self_attn.k_proj": (c.num_kv_heads * c.head_dim, c.hidden_size),
                "self_attn.v_proj": (c.num_kv_heads * c.head_dim, c.hidden_size),
                "self_attn.o_proj": (c.hidden_size, c.num_heads * c.head_dim),
                "post_attention_layernorm": (c.hidden_size,),
                "mlp.gate_proj": (c.intermediate_size, c.hidden_size),
                "mlp.up_proj": (c.intermediate_size, c.hidden_size),
                "mlp.down_proj": (c.hidden_size, c.intermediate_size),
            }.items():
                self._shapes[f"model.layers.{layer}.{name}.weight"] = shape

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16, device=self._device)
        return torch.empty(shape, dtype=torch.bfloat16, device=self._device).normal_(std=0.02)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def build(name: str, device: torch.device) -> LlamaModel:
    """The model of that name in bfloat16."""
    torch.manual_seed(0)
    return LlamaModel(LLAMA[name], RandomTensors(LLAMA[name], device), dtype=torch.bfloat16, device=device)


def weight_bytes(config: LlamaConfig) -> int:
    """Bytes of weights that a step of few rows reads: all matrices, and of the embedding next to nothing."""
    c = config
    layer = c.hidden_size * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    layer += 3 * c.hidden_size * c.intermediate_size
    return 2 * (c.num_layers * layer + c.vocab_size * c.hidden_size)


def token_bytes(config: LlamaConfig) -> int:
    """Bytes of keys and values that a token has in the cache."""
    return 2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim
