"""Qwen3 (arXiv:2505.09388): Llama with norms of query and key heads; and its mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..architecture import Architecture
from ..config import GroupedQueryConfig, read_grouped_query
from ..decoder import Maker
from ..fields import Fields
from ..layers.attention import GroupedQuery, GroupedQueryAttention
from ..layers.experts import MixtureOfExperts, Routing
from ..layers.rope import Rotary


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3MoeConfig(GroupedQueryConfig):
    """Qwen3-MoE."""

    routing: Routing


def _read(fields: Fields) -> dict[str, Any]:
    fields.only("attention_bias", False)
    fields.only("use_sliding_window", False)
    fields.integer("intermediate_size")
    return read_grouped_query(fields)


def read_dense(fields: Fields) -> GroupedQueryConfig:
    """Raises UnsupportedModel naming the field that is not supported."""
    return GroupedQueryConfig(**_read(fields))


def read_experts(fields: Fields) -> Qwen3MoeConfig:
    """Raises UnsupportedModel naming the field that is not supported."""
    common = _read(fields)
    experts = fields.integer("num_experts" if fields.has("num_experts") else "num_local_experts")
    common["declared"] = {**fields.raw, "num_experts": experts}
    fields.integer("moe_intermediate_size")
    fields.integer("decoder_sparse_step", 1)
    fields.indices("mlp_only_layers")
    routing = Routing(
        fields.integer("num_experts_per_tok", most=experts),
        scoring="softmax",
        renormalize=fields.flag("norm_topk_prob"),
        float32=False,
    )
    return Qwen3MoeConfig(**common, routing=routing)


def dense(config: GroupedQueryConfig, table: Rotary) -> Mapping[str, Maker]:
    """Attention whose query and key heads are normed before they turn."""
    attention = GroupedQuery(config.head_dim, table, config.rms_norm_eps)
    return {"attention": lambda parts: GroupedQueryAttention(parts, attention)}


def experts(config: Qwen3MoeConfig, table: Rotary) -> Mapping[str, Maker]:
    """The same, and experts chosen by softmax over all of them."""
    return {**dense(config, table), "moe": lambda parts: MixtureOfExperts(parts, config.routing)}


ARCHITECTURES: Final = (
    Architecture("qwen3", ("Qwen3ForCausalLM",), read_dense, dense),
    Architecture("qwen3_moe", ("Qwen3MoeForCausalLM",), read_experts, experts),
)
