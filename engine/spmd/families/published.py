"""Sizes of published models, as their config.json files on Hugging Face give them.

Only what a declaration needs. They are what `tokenspeed verify spmd` checks and what `tokenspeed plan` knows by name.
"""

from typing import Any, Final


def _grouped(
    kind: str, layers: int, hidden: int, width: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **more,
    }


def _latent(
    kind: str, layers: int, hidden: int, width: int, heads: int, q_rank: int | None, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        **_grouped(kind, layers, hidden, width, heads, heads, vocabulary),
        "q_lora_rank": q_rank,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        **more,
    }


def _experts(experts: int, chosen: int, width: int, shared: int, dense: int) -> dict[str, Any]:
    return {
        "n_routed_experts": experts,
        "num_experts_per_tok": chosen,
        "moe_intermediate_size": width,
        "n_shared_experts": shared,
        "first_k_dense_replace": dense,
    }


PUBLISHED: Final[dict[str, dict[str, Any]]] = {
    "smollm2-135m": _grouped("llama", 30, 576, 1536, 9, 3, 49_152, tie_word_embeddings=True),
    "llama-3-8b": _grouped("llama", 32, 4096, 14_336, 32, 8, 128_256),
    "qwen2-7b": _grouped("qwen2", 28, 3584, 18_944, 28, 4, 152_064),
    "qwen3-8b": _grouped("qwen3", 36, 4096, 12_288, 32, 8, 151_936, head_dim=128),
    "qwen3-30b-a3b": _grouped(
        "qwen3_moe",
        48,
        2048,
        6144,
        32,
        4,
        151_936,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "deepseek-v2-lite": _latent("deepseek_v2", 27, 2048, 10_944, 16, None, 102_400, **_experts(64, 6, 1408, 2, 1)),
    "deepseek-v3": _latent("deepseek_v3", 61, 7168, 18_432, 128, 1536, 129_280, **_experts(256, 8, 2048, 1, 3)),
    "kimi-k2": _latent("kimi_k2", 61, 7168, 18_432, 64, 1536, 163_840, **_experts(384, 8, 2048, 1, 1)),
    "glm-4.7-flash": _latent(
        "glm4_moe_lite",
        47,
        2048,
        10_240,
        20,
        768,
        154_880,
        **_experts(64, 4, 1536, 1, 1),
        qk_nope_head_dim=192,
        v_head_dim=256,
    ),
    "glm-4.5": _grouped(
        "glm4_moe",
        92,
        5120,
        12_288,
        96,
        8,
        151_552,
        head_dim=128,
        attention_bias=True,
        use_qk_norm=True,
        **_experts(160, 8, 1536, 1, 3),
    ),
}
"""By the name that the command line takes."""
