"""From a config.json to the declaration of the model: its blocks in order, with every weight and its placement."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..blocks import GroupedQuery, Latent, MixtureOfExperts, embedding, gated_mlp, lm_head
from ..contract import Block, Model, Module
from ..placements import Weight

Config = Mapping[str, Any]
Layer = Callable[[str], Module]
"""Declares a module at a prefix."""


class UnknownFamily(ValueError):
    """The config.json is of a kind that has no declaration, or lacks a field; the message names it."""


def declare(config: Config, *, name: str = "", layers: int | None = None) -> Model:
    """The model that a config.json describes. `layers`: declare only the first of them.

    Raises UnknownFamily naming the model_type, or the field that is missing.
    """
    text: Config = config.get("text_config") or config  # a model with a vision tower holds its decoder's fields there
    kind = text.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise UnknownFamily(f"model_type {kind!r} has no declaration; known: {', '.join(sorted(FAMILIES))}")
    try:
        count = text["num_hidden_layers"] if layers is None else min(layers, text["num_hidden_layers"])
        stack = [pair for index in range(count) for pair in family(text, index)]
        hidden, vocabulary = text["hidden_size"], text["vocab_size"]
        embed = embedding(vocabulary, hidden)
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        head = lm_head(vocabulary, hidden, "model.embed_tokens.weight" if tied else "lm_head.weight")
    except KeyError as error:
        raise UnknownFamily(f"config.json of a {kind!r} lacks {error.args[0]!r}") from error
    return Model(name or str(kind), hidden, embed, tuple(stack), Weight("model.norm.weight", (hidden,)), head)


def _layer(config: Config, index: int, attention: Layer, feed_forward: Layer) -> tuple[Block, Block]:
    """A pre-norm layer: attention, then a feed-forward layer."""
    prefix, hidden = f"model.layers.{index}", config["hidden_size"]
    return (
        Block(Weight(f"{prefix}.input_layernorm.weight", (hidden,)), attention(f"{prefix}.self_attn")),
        Block(Weight(f"{prefix}.post_attention_layernorm.weight", (hidden,)), feed_forward(f"{prefix}.mlp")),
    )


def _grouped_query(config: Config, **options: bool) -> Layer:
    heads = config["num_attention_heads"]
    return GroupedQuery(
        config["hidden_size"],
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or config["hidden_size"] // heads,
        **options,
    ).module


def _dense(config: Config) -> Layer:
    return lambda prefix: gated_mlp(prefix, config["hidden_size"], config["intermediate_size"])


def _llama(config: Config, index: int) -> tuple[Block, Block]:
    return _layer(config, index, _grouped_query(config), _dense(config))


def _qwen2(config: Config, index: int) -> tuple[Block, Block]:
    return _layer(config, index, _grouped_query(config, bias=True), _dense(config))


def _qwen3(config: Config, index: int) -> tuple[Block, Block]:
    return _layer(config, index, _grouped_query(config, head_norms=True), _dense(config))


def _qwen3_moe(config: Config, index: int) -> tuple[Block, Block]:
    step = config.get("decoder_sparse_step", 1)
    # transformers writes the second name since version 5.
    experts = config["num_experts"] if "num_experts" in config else config["num_local_experts"]
    sparse = index not in (config.get("mlp_only_layers") or ()) and experts and (index + 1) % step == 0
    moe = MixtureOfExperts(config["hidden_size"], experts, config["moe_intermediate_size"]).module
    return _layer(config, index, _grouped_query(config, head_norms=True), moe if sparse else _dense(config))


def _deepseek_feed_forward(config: Config, index: int, *, correction: bool) -> Layer:
    """Dense in the first layers; then routed experts and one layer that is as wide as all shared experts."""
    frequency = config.get("moe_layer_freq", 1)
    if not config.get("n_routed_experts") or index < config["first_k_dense_replace"] or index % frequency:
        return _dense(config)
    width = config["moe_intermediate_size"]
    return MixtureOfExperts(
        config["hidden_size"],
        config["n_routed_experts"],
        width,
        shared_width=width * (config.get("n_shared_experts") or 0),
        correction=correction,
    ).module


def _latent(config: Config) -> Layer:
    return Latent(
        config["hidden_size"],
        config["num_attention_heads"],
        config.get("q_lora_rank"),
        config["kv_lora_rank"],
        config["qk_nope_head_dim"],
        config["qk_rope_head_dim"],
        config["v_head_dim"],
    ).module


def _deepseek_v2(config: Config, index: int) -> tuple[Block, Block]:
    return _layer(config, index, _latent(config), _deepseek_feed_forward(config, index, correction=False))


def _deepseek_v3(config: Config, index: int) -> tuple[Block, Block]:
    return _layer(config, index, _latent(config), _deepseek_feed_forward(config, index, correction=True))


def _glm4_moe(config: Config, index: int) -> tuple[Block, Block]:
    attention = _grouped_query(
        config, bias=bool(config.get("attention_bias")), head_norms=bool(config.get("use_qk_norm"))
    )
    return _layer(config, index, attention, _deepseek_feed_forward(config, index, correction=True))


FAMILIES: Final[dict[str, Callable[[Config, int], tuple[Block, ...]]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "kimi_k2": _deepseek_v3,
    "glm4_moe_lite": _deepseek_v3,
    "glm4_moe": _glm4_moe,
}
"""For each model_type the blocks of one layer, from the config and the layer's index."""
