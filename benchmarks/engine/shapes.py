"""The models that are measured: shapes of public checkpoints with random weights, made on the device."""

from __future__ import annotations

from typing import Any

import torch

from tokenspeed.engine.models.model import Model
from tokenspeed.engine.models.registry import read
from tokenspeed.engine.models.weights import DummyWeights

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "deepseek-v2-lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "vocab_size": 102400,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "attention_bias": False,
    },
}


def build(name: str, device: torch.device) -> Model:
    """The model of that name in bfloat16."""
    architecture, config = read(SHAPES[name])
    return architecture.build(config, DummyWeights(), torch.bfloat16, device)


def weight_bytes(name: str, tokens: int) -> float:
    """Bytes of weights that a step of so many tokens reads: of the embedding next to nothing, of a mixture's experts
    those that are expected to be chosen if all are equally likely."""
    c = SHAPES[name]
    hidden, heads, layers = c["hidden_size"], c["num_attention_heads"], c["num_hidden_layers"]
    if "kv_lora_rank" in c:
        q = heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        up = c["kv_lora_rank"] * heads * (c["qk_nope_head_dim"] + c["v_head_dim"])
        attention = hidden * (q + c["kv_lora_rank"] + c["qk_rope_head_dim"] + heads * c["v_head_dim"]) + up
    else:
        attention = hidden * c["head_dim"] * 2 * (heads + c["num_key_value_heads"])
    dense, experts = layers, 0.0
    if "n_routed_experts" in c:
        dense = c["first_k_dense_replace"]
        number, chosen = c["n_routed_experts"], c["num_experts_per_tok"]
        read_experts = number * (1 - (1 - chosen / number) ** tokens) + c["n_shared_experts"]
        experts = (layers - dense) * 3 * hidden * c["moe_intermediate_size"] * read_experts
    return 2 * (layers * attention + dense * 3 * hidden * c["intermediate_size"] + experts + c["vocab_size"] * hidden)


def step_flops(name: str, tokens: int, results: int, pairs: int) -> float:
    """Floating-point operations of a step. `pairs`: of a query and a key that it sees, over all rows."""
    c = SHAPES[name]
    head = 2 * c["vocab_size"] * c["hidden_size"]
    body = weight_bytes(name, 1) - head  # of one token, which reads each expert that it uses once
    if "kv_lora_rank" in c:
        attention = 2 * c["num_attention_heads"] * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"] + c["v_head_dim"])
    else:
        attention = 4 * c["num_attention_heads"] * c["head_dim"]
    return tokens * body + results * head + c["num_hidden_layers"] * attention * pairs
