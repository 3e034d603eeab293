"""Small models of every kind of module, declared for tests."""

from tokenspeed.engine.spmd.blocks import (
    GroupedQuery,
    Latent,
    MixtureOfExperts,
    embedding,
    gated_mlp,
    lm_head,
)
from tokenspeed.engine.spmd.contract import Block, Model, Module
from tokenspeed.engine.spmd.placements import Weight

HIDDEN = 16


def model(*kinds: str, tied: bool = False, heads: int = 8, kv_heads: int = 4) -> Model:
    """A stack of the given modules: attention, bias (attention with every bias), mla, mlp, moe, shared."""
    blocks = tuple(
        Block(Weight(f"model.layers.{i}.norm.weight", (HIDDEN,)), module(kind, f"model.layers.{i}", heads, kv_heads))
        for i, kind in enumerate(kinds)
    )
    head = lm_head(40, HIDDEN, "model.embed_tokens.weight" if tied else "lm_head.weight")
    return Model("tiny", HIDDEN, embedding(40, HIDDEN), blocks, Weight("model.norm.weight", (HIDDEN,)), head)


def module(kind: str, prefix: str, heads: int, kv_heads: int) -> Module:
    match kind:
        case "attention":
            return GroupedQuery(HIDDEN, heads, kv_heads, 4).module(f"{prefix}.self_attn")
        case "bias":
            return GroupedQuery(
                HIDDEN, heads, kv_heads, 4, bias=True, output_bias=True, head_norms=True, sinks=True
            ).module(f"{prefix}.self_attn")
        case "mla":
            return Latent(HIDDEN, heads, 12, 8, 4, 2, 6).module(f"{prefix}.self_attn")
        case "mlp":
            return gated_mlp(f"{prefix}.mlp", HIDDEN, 24)
        case "moe":
            return MixtureOfExperts(HIDDEN, 8, 12).module(f"{prefix}.mlp")
        case "shared":
            return MixtureOfExperts(HIDDEN, 8, 12, 24, correction=True, shared_gate=True).module(f"{prefix}.mlp")
    raise ValueError(kind)
