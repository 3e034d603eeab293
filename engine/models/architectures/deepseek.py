"""DeepSeek-V2 (arXiv:2405.04434) and V3 (arXiv:2412.19437), and what is shaped like them: R1, V3.1, Kimi-K2 and K2.5
(text), GLM-4.7-Flash. Multi-head latent attention, and experts in groups with a shared layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ....kernels.mla import LATENT_DIM, ROPE_DIM
from ..architecture import Architecture
from ..config import DecoderConfig, read_common
from ..decoder import Maker
from ..fields import Fields
from ..layers.experts import MixtureOfExperts, Routing
from ..layers.latent_attention import Latent, LatentAttention
from ..layers.rope import Rotary, yarn_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig(DecoderConfig):
    """A decoder with multi-head latent attention and, unless all its layers are dense, experts."""

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    attention_scale: float
    rope_interleave: bool
    routing: Routing | None


def _read(fields: Fields) -> dict[str, Any]:
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    fields.integer("num_attention_heads")
    fields.integer("intermediate_size")
    fields.integer("q_lora_rank", 0)
    fields.integer("first_k_dense_replace", least=0)
    fields.integer("moe_layer_freq", 1)
    rank, rope, nope = (fields.integer(f) for f in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"))
    # The cached row is what the kernels of `mla_decode` are made for.
    for field, value, wanted in (("kv_lora_rank", rank, LATENT_DIM), ("qk_rope_head_dim", rope, ROPE_DIM)):
        if value != wanted:
            raise fields.error(field, value, f"only {wanted} is implemented")
    scale = (nope + rope) ** -0.5
    scaling = fields.section("rope_parameters", "rope_scaling")
    if scaling.has("mscale_all_dim") and scaling.number("mscale_all_dim", zero=True) and scaling.has("factor"):
        scale *= yarn_scale(scaling.number("factor"), scaling.number("mscale_all_dim")) ** 2
    return {
        **read_common(fields, rope_dim=rope),
        "kv_lora_rank": rank,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": fields.integer("v_head_dim"),
        "attention_scale": scale,
        "rope_interleave": fields.flag("rope_interleave", True),
    }


def read_routing(fields: Fields, **how: Any) -> Routing | None:
    """How experts are chosen; None if there are none. Raises UnsupportedModel naming the field."""
    if not fields.raw.get("n_routed_experts"):
        return None
    experts = fields.integer("n_routed_experts")
    fields.integer("moe_intermediate_size")
    fields.integer("n_shared_experts", 0, least=0)
    groups = fields.integer("n_group", 1, most=experts)
    if experts % groups:
        raise fields.error("n_group", groups, f"give a divisor of the {experts} experts")
    top_groups = fields.integer("topk_group", groups, most=groups)
    return Routing(
        fields.integer("num_experts_per_tok", most=experts // groups * top_groups),
        scale=fields.number("routed_scaling_factor", 1.0),
        groups=groups,
        top_groups=top_groups,
        **how,
    )


def read_v2(fields: Fields) -> LatentConfig:
    """Softmax over all experts, of the groups with the largest ones. `norm_topk_prob` is not a choice here: the
    published models say false, and transformers does not read it. Raises UnsupportedModel naming the field."""
    fields.only("norm_topk_prob", False)
    method = fields.only("topk_method", "greedy", "group_limited_greedy")
    routing = read_routing(fields, scoring="softmax", renormalize=False)
    if routing is not None and method == "greedy":
        routing = Routing(routing.top_k, "softmax", False, routing.scale)
    return LatentConfig(**_read(fields), routing=routing)


def read_v3(fields: Fields) -> LatentConfig:
    """Sigmoid of each expert and a bias to choose by, of the groups whose best two are largest together.

    Raises UnsupportedModel naming the field.
    """
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    routing = read_routing(fields, scoring="sigmoid", renormalize=fields.flag("norm_topk_prob", True))
    return LatentConfig(**_read(fields), routing=routing)


def read_wrapped(fields: Fields) -> LatentConfig:
    """Kimi-K2.5: the decoder's fields are in `text_config`; what sees is not loaded. Raises UnsupportedModel naming the
    field."""
    text = fields.section("text_config")
    config = read_v3(text.with_values(model_type="deepseek_v3"))
    quantization = fields.section("quantization_config").raw if fields.has("quantization_config") else None
    return replace(
        config,
        quantization=config.quantization or quantization,
        weight_prefix="language_model.",
        ignored=(*config.ignored, "vision_tower.*", "mm_projector.*"),
    )


def makers(config: LatentConfig, table: Rotary) -> Mapping[str, Maker]:
    """Latent attention, and experts if there are any."""
    attention = Latent(
        config.kv_lora_rank,
        config.qk_nope_head_dim,
        config.qk_rope_head_dim,
        config.v_head_dim,
        config.attention_scale,
        table,
        config.rope_interleave,
    )
    routing = config.routing
    found: dict[str, Maker] = {"mla": lambda parts: LatentAttention(parts, attention)}
    if routing is not None:
        found["moe"] = lambda parts: MixtureOfExperts(parts, routing)
    return found


ARCHITECTURES: Final = (
    Architecture("deepseek_v2", ("DeepseekV2ForCausalLM",), read_v2, makers),
    Architecture("deepseek_v3", ("DeepseekV3ForCausalLM", "kimi_k2"), read_v3, makers),
    Architecture("glm4_moe_lite", ("Glm4MoeLiteForCausalLM",), read_v3, makers),
    Architecture("kimi_k25", ("KimiK25ForConditionalGeneration",), read_wrapped, makers),
)
