"""The Llama architecture (arXiv:2302.13971, with grouped-query attention) over a paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...kernels import paged_attention, rms_norm, rotary, silu_mul, write_kv
from .cache_layout import CacheLayout, keys_and_values
from .config import LlamaConfig
from .linear import Linear
from .model import DecodePlan, StepInputs
from .weights import Weights

if TYPE_CHECKING:
    from ..run.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer; projections that read the same input are stacked into one matrix."""

    input_norm: torch.Tensor
    qkv: Linear
    o: Linear
    post_attention_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class LlamaModel:
    """Weights on one device, and the forward pass."""

    def __init__(self, config: LlamaConfig, weights: Weights, dtype: torch.dtype, device: torch.device) -> None:
        """Read and convert all weights. Raises what `Weights.read` does."""
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_position_embeddings
        self.dtype = dtype
        self.device = device
        self._weights = weights
        c = config
        self._q_size = c.num_heads * c.head_dim
        self._kv_size = c.num_kv_heads * c.head_dim
        self._layers = [self._read_layer(index) for index in range(c.num_layers)]
        self._embedding = self._read("model.embed_tokens.weight", c.vocab_size, c.hidden_size)
        self._norm = self._read("model.norm.weight", c.hidden_size)
        tied = c.tie_word_embeddings
        self._output = Linear(self._embedding if tied else self._read("lm_head.weight", c.vocab_size, c.hidden_size))
        del self._weights
        self._cos, self._sin = self._rope_tables()

    @property
    def cache_layout(self) -> CacheLayout:
        """Keys and values in every layer."""
        return llama_cache(self.config, self.dtype)

    def plan_decode(
        self, context_lens: torch.Tensor, *, row_tokens: int, block_size: int, max_context: int
    ) -> DecodePlan | None:
        """Grouped-query attention needs no plan."""
        return None

    def _read(self, name: str, *shape: int) -> torch.Tensor:
        return self._weights.read(name, shape, dtype=self.dtype, device=self.device)

    def _read_layer(self, index: int) -> _Layer:
        c = self.config
        prefix = f"model.layers.{index}"

        def matrix(name: str, rows: int, columns: int) -> torch.Tensor:
            return self._read(f"{prefix}.{name}_proj.weight", rows, columns)

        q = matrix("self_attn.q", self._q_size, c.hidden_size)
        k = matrix("self_attn.k", self._kv_size, c.hidden_size)
        v = matrix("self_attn.v", self._kv_size, c.hidden_size)
        gate = matrix("mlp.gate", c.intermediate_size, c.hidden_size)
        up = matrix("mlp.up", c.intermediate_size, c.hidden_size)
        return _Layer(
            input_norm=self._read(f"{prefix}.input_layernorm.weight", c.hidden_size),
            qkv=Linear(torch.cat([q, k, v])),
            o=Linear(matrix("self_attn.o", c.hidden_size, self._q_size)),
            post_attention_norm=self._read(f"{prefix}.post_attention_layernorm.weight", c.hidden_size),
            gate_up=Linear(torch.cat([gate, up])),
            down=Linear(matrix("mlp.down", c.hidden_size, c.intermediate_size)),
        )

    def _rope_tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, both float32 [positions, head_dim / 2]."""
        frequencies = torch.tensor(self.config.rope.frequencies(), dtype=torch.float32)
        angles = torch.outer(torch.arange(self.config.max_position_embeddings, dtype=torch.float32), frequencies)
        return angles.cos().to(self.device), angles.sin().to(self.device)

    @torch.inference_mode()
    def forward(self, input_ids: torch.Tensor, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """Run all layers over the packed tokens and write their keys and values into `cache`.

        `input_ids`: [tokens] integer. Returns the last layer's output before the final norm, [tokens, hidden_size].
        """
        c = self.config
        tokens = input_ids.shape[0]
        rotated_heads = c.num_heads + c.num_kv_heads
        cos, sin = self._cos[step.positions], self._sin[step.positions]
        scale, eps = c.head_dim**-0.5, c.rms_norm_eps
        # What a layer adds to the residual stream is added by the norm of the next one.
        added, stream = F.embedding(input_ids, self._embedding), None
        for layer, cached in zip(self._layers, cache.layers, strict=True):
            k_cache, v_cache = cached["keys"], cached["values"]
            normed, stream = rms_norm(added, layer.input_norm, eps=eps, residual=stream)
            qkv = layer.qkv(normed).view(tokens, -1, c.head_dim)
            # Queries and keys turn together: they are neighbours in the stacked projection.
            turned = rotary(qkv[:, :rotated_heads], cos, sin)
            q, k = turned[:, : c.num_heads], turned[:, c.num_heads :]
            write_kv(k, qkv[:, rotated_heads:], k_cache, v_cache, step.slot_mapping)
            attended = paged_attention(
                q, k_cache, v_cache, step.block_table, step.context_lens, step.query_start, scale=scale
            )
            added = layer.o(attended.reshape(tokens, self._q_size))
            normed, stream = rms_norm(added, layer.post_attention_norm, eps=eps, residual=stream)
            added = layer.down(silu_mul(layer.gate_up(normed)))
        return added if stream is None else stream + added

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the next token, [n, vocab_size], from outputs of `forward` [n, hidden_size]."""
        normed, _ = rms_norm(hidden, self._norm, eps=self.config.rms_norm_eps)
        return self._output(normed)


def llama_cache(config: LlamaConfig, dtype: torch.dtype) -> CacheLayout:
    """What a token adds to the cache of a model of this shape."""
    return keys_and_values(config.num_layers, config.num_kv_heads, config.head_dim, dtype)
