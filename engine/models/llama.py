"""The Llama architecture (arXiv:2302.13971, with grouped-query attention) over a paged KV cache."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...kernels import paged_attention, rms_norm, rotary, silu_mul, write_kv
from ..run.kv_cache import KVCache
from .config import LlamaConfig, UnsupportedModel
from .linear import Linear


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Where the packed tokens of a step belong: rows of requests one after the other, decode and prefill alike."""

    positions: torch.Tensor
    """[tokens] integer, position of each token in its sequence."""
    slot_mapping: torch.Tensor
    """[tokens] int64, block * block_size + offset: where each token's key and value go."""
    block_table: torch.Tensor
    """[rows, columns] int32, the blocks of each row in order."""
    context_lens: torch.Tensor
    """[rows] int32, tokens of each row's sequence including the ones of this step."""
    query_start: torch.Tensor
    """[rows + 1] int32, where each row begins among the packed tokens."""


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

    def __init__(
        self,
        config: LlamaConfig,
        tensors: Mapping[str, torch.Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Read and convert all weights (`tensors`: by Hugging Face name).

        Raises UnsupportedModel naming a tensor that is missing or whose shape is not what the config says.
        """
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self._tensors = tensors
        c = config
        self._q_size = c.num_heads * c.head_dim
        self._kv_size = c.num_kv_heads * c.head_dim
        self._layers = [self._read_layer(index) for index in range(c.num_layers)]
        self._embedding = self._read("model.embed_tokens.weight", c.vocab_size, c.hidden_size)
        self._norm = self._read("model.norm.weight", c.hidden_size)
        tied = c.tie_word_embeddings
        self._output = Linear(self._embedding if tied else self._read("lm_head.weight", c.vocab_size, c.hidden_size))
        del self._tensors
        self._cos, self._sin = self._rope_tables()

    def _read(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self._tensors:
            raise UnsupportedModel(f"the checkpoint lacks the tensor {name}")
        tensor = self._tensors[name]
        if tuple(tensor.shape) != shape:
            raise UnsupportedModel(f"{name} has shape {tuple(tensor.shape)}, but the config says {shape}")
        return tensor.to(device=self.device, dtype=self.dtype)

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
    def forward(self, input_ids: torch.Tensor, rows: PackedRows, cache: KVCache) -> torch.Tensor:
        """Run all layers over the packed tokens and write their keys and values into `cache`.

        `input_ids`: [tokens] integer. Returns the last layer's output before the final norm, [tokens, hidden_size].
        """
        c = self.config
        tokens = input_ids.shape[0]
        rotated_heads = c.num_heads + c.num_kv_heads
        cos, sin = self._cos[rows.positions], self._sin[rows.positions]
        scale, eps = c.head_dim**-0.5, c.rms_norm_eps
        # What a layer adds to the residual stream is added by the norm of the next one.
        added, stream = F.embedding(input_ids, self._embedding), None
        for layer, (k_cache, v_cache) in zip(self._layers, cache.layers, strict=True):
            normed, stream = rms_norm(added, layer.input_norm, eps=eps, residual=stream)
            qkv = layer.qkv(normed).view(tokens, -1, c.head_dim)
            # Queries and keys turn together: they are neighbours in the stacked projection.
            turned = rotary(qkv[:, :rotated_heads], cos, sin)
            q, k = turned[:, : c.num_heads], turned[:, c.num_heads :]
            write_kv(k, qkv[:, rotated_heads:], k_cache, v_cache, rows.slot_mapping)
            attended = paged_attention(
                q, k_cache, v_cache, rows.block_table, rows.context_lens, rows.query_start, scale=scale
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
