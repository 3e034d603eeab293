"""Shapes of the models that the cost model knows, and what follows from them: parameters, FLOP and KV bytes.

Sources: the models' `config.json` on Hugging Face (HuggingFaceTB/SmolLM2-135M, meta-llama/Meta-Llama-3-8B,
meta-llama/Llama-3.1-8B, deepseek-ai/DeepSeek-V3, moonshotai/Kimi-K2-Instruct-0905).
Multi-token-prediction layers are left out.
"""

from dataclasses import dataclass
from typing import Final

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class GroupedQueryAttention:
    """Grouped-query attention (arXiv 2305.13245): `kv_heads` keys and values shared by `heads` queries."""

    heads: int
    kv_heads: int
    head_dim: int

    def parameters(self, hidden: int) -> int:
        """Weights of one layer's four projections."""
        return hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    def kv_values(self) -> int:
        """Values that one token adds to one layer's KV cache."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): caches one latent vector per token."""

    heads: int
    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int

    def parameters(self, hidden: int) -> int:
        """Weights of one layer's projections."""
        query = hidden * self.q_rank + self.q_rank * self.heads * (self.nope_dim + self.rope_dim)
        latent = hidden * (self.kv_rank + self.rope_dim)
        expand = self.kv_rank * self.heads * (self.nope_dim + self.v_dim)
        return query + latent + expand + self.heads * self.v_dim * hidden

    def kv_values(self) -> int:
        """Values that one token adds to one layer's KV cache: 512 latent + 64 rotary = 576 in the published models."""
        return self.kv_rank + self.rope_dim


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """Routed and shared experts of the layers after the first `dense_layers`."""

    experts: int
    top_k: int
    shared: int
    intermediate: int
    dense_layers: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer with gated (three-matrix) feed-forward layers."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    """Width of a dense feed-forward layer."""
    vocabulary: int
    tied_embeddings: bool
    max_context: int
    """Longest prompt and output together that the model was made for, tokens (`max_position_embeddings`)."""
    attention: GroupedQueryAttention | LatentAttention
    moe: MixtureOfExperts | None = None

    @property
    def moe_layers(self) -> int:
        """Layers with routed experts."""
        return 0 if self.moe is None else self.layers - self.moe.dense_layers

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert in one layer; 0 for a dense model."""
        return 0 if self.moe is None else 3 * self.hidden * self.moe.intermediate

    @property
    def always_parameters(self) -> int:
        """Linear weights that every token uses, in all layers: attention, dense and shared feed-forward, router."""
        total = self.layers * self.attention.parameters(self.hidden)
        total += (self.layers - self.moe_layers) * 3 * self.hidden * self.intermediate
        if self.moe is not None:
            shared = self.moe.shared * self.expert_parameters + self.hidden * self.moe.experts
            total += self.moe_layers * shared
        return total

    @property
    def routed_parameters(self) -> int:
        """Weights of all routed experts in all layers; 0 for a dense model."""
        return 0 if self.moe is None else self.moe_layers * self.moe.experts * self.expert_parameters

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding and, if it is not tied to it, the output head."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All weights (norms, below 0.01 %, left out)."""
        return self.always_parameters + self.routed_parameters + self.embedding_parameters

    @property
    def active_parameters(self) -> int:
        """Weights that one token uses, the way model cards count them: embeddings included."""
        routed = 0 if self.moe is None else self.moe_layers * self.moe.top_k * self.expert_parameters
        return self.always_parameters + routed + self.embedding_parameters

    def kv_values_per_token(self) -> int:
        """Values that one token adds to the KV cache over all layers."""
        return self.layers * self.attention.kv_values()


MODELS: Final = {
    shape.name: shape
    for shape in (
        ModelShape("smollm2-135m", 30, 576, 1536, 49_152, True, 8_192, GroupedQueryAttention(9, 3, 64)),
        ModelShape("llama-3-8b", 32, 4096, 14_336, 128_256, False, 8_192, GroupedQueryAttention(32, 8, 128)),
        ModelShape("llama-3.1-8b", 32, 4096, 14_336, 128_256, False, 131_072, GroupedQueryAttention(32, 8, 128)),
        ModelShape(
            "deepseek-v3",
            61,
            7168,
            18_432,
            129_280,
            False,
            163_840,
            LatentAttention(heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128),
            MixtureOfExperts(experts=256, top_k=8, shared=1, intermediate=2048, dense_layers=3),
        ),
        ModelShape(
            "kimi-k2",
            61,
            7168,
            18_432,
            163_840,
            False,
            262_144,
            LatentAttention(heads=64, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128),
            MixtureOfExperts(experts=384, top_k=8, shared=1, intermediate=2048, dense_layers=1),
        ),
    )
}
"""Known models by name."""


def find_model(name: str) -> ModelShape:
    """The model called `name`. Raises ConfigurationError listing the known ones."""
    shape = MODELS.get(name.lower())
    if shape is None:
        raise ConfigurationError(f"model is {name!r}; known models: {', '.join(MODELS)}")
    return shape
