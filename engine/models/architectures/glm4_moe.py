"""GLM-4.5 and 4.6 (arXiv:2508.06471): grouped-query attention, half of each head turned, and V3's experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..architecture import Architecture
from ..config import GroupedQueryConfig, read_grouped_query
from ..decoder import Maker
from ..fields import Fields
from ..layers.attention import GroupedQuery, GroupedQueryAttention
from ..layers.experts import MixtureOfExperts, Routing
from ..layers.rope import Rotary
from .deepseek import read_routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Glm4MoeConfig(GroupedQueryConfig):
    """GLM-4.5 and 4.6."""

    routing: Routing | None


def read_config(fields: Fields) -> Glm4MoeConfig:
    """Raises UnsupportedModel naming the field that is not supported."""
    fields.flag("attention_bias")
    fields.flag("use_qk_norm")
    fields.integer("intermediate_size")
    fields.integer("first_k_dense_replace", least=0)
    routing = read_routing(fields, scoring="sigmoid", renormalize=fields.flag("norm_topk_prob", True))
    return Glm4MoeConfig(**read_grouped_query(fields, partial_rotary=True), routing=routing)


def makers(config: Glm4MoeConfig, table: Rotary) -> Mapping[str, Maker]:
    """Attention, and experts if there are any."""
    attention = GroupedQuery(config.head_dim, table, config.rms_norm_eps)
    routing = config.routing
    found: dict[str, Maker] = {"attention": lambda parts: GroupedQueryAttention(parts, attention)}
    if routing is not None:
        found["moe"] = lambda parts: MixtureOfExperts(parts, routing)
    return found


ARCHITECTURES: Final = (Architecture("glm4_moe", ("Glm4MoeForCausalLM",), read_config, makers),)
