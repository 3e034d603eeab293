"""Qwen2 and 2.5 (arXiv:2407.10671): Llama with biases of queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..architecture import Architecture
from ..config import GroupedQueryConfig, read_grouped_query
from ..decoder import Maker
from ..fields import Fields
from ..layers.attention import GroupedQuery, GroupedQueryAttention
from ..layers.rope import Rotary


def read_config(fields: Fields) -> GroupedQueryConfig:
    """Raises UnsupportedModel naming the field that is not supported."""
    fields.only("use_sliding_window", False)
    fields.integer("intermediate_size")
    return GroupedQueryConfig(**read_grouped_query(fields))


def makers(config: GroupedQueryConfig, table: Rotary) -> Mapping[str, Maker]:
    """Attention without norms of heads; biases are read where they are declared."""
    attention = GroupedQuery(config.head_dim, table, config.rms_norm_eps)
    return {"attention": lambda parts: GroupedQueryAttention(parts, attention)}


ARCHITECTURES: Final = (Architecture("qwen2", ("Qwen2ForCausalLM",), read_config, makers),)
