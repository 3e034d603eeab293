"""What every decoder is known by before it is built, and what they share when a config.json is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .fields import Fields, UnsupportedModel
from .layers.rope import RopeConfig, read_rope

__all__ = ["DecoderConfig", "GroupedQueryConfig", "UnsupportedModel", "read_common", "read_grouped_query"]


_NEVER_READ: Final = ("*.rotary_emb.inv_freq", "*.k_proj.k_scale", "*.v_proj.v_scale")
"""Frequencies follow from the configuration, and the cache is not quantised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Shape and numerics that every decoder has."""

    declared: Mapping[str, Any] = field(compare=False, repr=False)
    """The fields that `spmd.families.declare` reads."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    """Longest sequence, prompt and output together, in tokens."""
    tie_word_embeddings: bool
    """Whether the output matrix is the embedding matrix."""
    quantization: Mapping[str, Any] | None = None
    """`quantization_config`: how weights are stored."""
    weight_prefix: str = ""
    """What the checkpoint puts before the names of weights."""
    ignored: tuple[str, ...] = ()
    """Patterns of names of tensors that the checkpoint may hold though the model has no use for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQueryConfig(DecoderConfig):
    """A decoder with grouped-query attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


def read_common(fields: Fields, *, rope_dim: int) -> dict[str, Any]:
    """The arguments of `DecoderConfig`. Raises UnsupportedModel naming the field that is not supported."""
    fields.only("hidden_act", "silu")
    fields.only("pretraining_tp", 1)
    hidden, vocab = fields.integer("hidden_size"), fields.integer("vocab_size")
    tied = fields.flag("tie_word_embeddings")
    layers, drafts = (
        fields.integer("num_hidden_layers", most=4096),
        fields.integer("num_nextn_predict_layers", 0, least=0),
    )
    return {
        "declared": fields.raw,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_layers": layers,
        "rms_norm_eps": fields.number("rms_norm_eps"),
        "rope": read_rope(fields, rope_dim),
        "max_position_embeddings": fields.integer("max_position_embeddings"),
        "tie_word_embeddings": tied,
        "quantization": fields.section("quantization_config").raw if fields.has("quantization_config") else None,
        "ignored": (
            *_NEVER_READ,
            *(("lm_head.weight",) if tied else ()),
            *(f"model.layers.{layers + index}.*" for index in range(drafts)),  # layers that draft tokens
        ),
    }


def read_grouped_query(fields: Fields, *, partial_rotary: bool = False) -> dict[str, Any]:
    """The arguments of `GroupedQueryConfig`. Raises UnsupportedModel naming the field that is not supported."""
    heads = fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", kv_heads, f"give a divisor of the {heads} query heads")
    head_dim = fields.integer("head_dim", max(1, fields.integer("hidden_size") // heads))
    rope_dim = head_dim
    if partial_rotary:
        rope = fields.section("rope_parameters", "rope_scaling")
        rope_dim = int(
            head_dim * (rope if rope.has("partial_rotary_factor") else fields).number("partial_rotary_factor", 1.0)
        )
    if rope_dim % 2 or not 0 < rope_dim <= head_dim:
        raise fields.error("head_dim", head_dim, f"{rope_dim} of its values would turn in pairs")
    return {
        **read_common(fields, rope_dim=rope_dim),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
    }
