"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases of queries, keys and values."""

from __future__ import annotations

from typing import Final

from ..architecture import Architecture
from ..config import GroupedQueryConfig, read_grouped_query
from ..fields import Fields
from .llama import makers


def read_config(fields: Fields) -> GroupedQueryConfig:
    """Raises UnsupportedModel naming the field that is not supported."""
    fields.only("use_sliding_window", False)
    fields.integer("intermediate_size")
    return GroupedQueryConfig(**read_grouped_query(fields))


ARCHITECTURES: Final = (Architecture("qwen2", ("Qwen2ForCausalLM",), read_config, makers),)
