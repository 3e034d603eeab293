"""Declarations against the checkpoints that transformers writes: every tensor, by name and shape."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tokenspeed.engine.spmd.families import FAMILIES, PUBLISHED, declare
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism

GROUPED: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS: dict[str, Any] = {
    "num_hidden_layers": 3,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
LATENT: dict[str, Any] = {
    **{name: value for name, value in GROUPED.items() if name != "head_dim"},
    **EXPERTS,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
TINY: dict[str, dict[str, Any]] = {
    "llama": {**GROUPED, "tie_word_embeddings": True},
    "qwen2": {name: value for name, value in GROUPED.items() if name != "head_dim"},
    "qwen3": GROUPED,
    "qwen3_moe": {
        **GROUPED,
        "moe_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [0],
    },
    "deepseek_v2": {**LATENT, "q_lora_rank": None},
    "deepseek_v3": LATENT,
    "glm4_moe_lite": LATENT,
    "glm4_moe": {**GROUPED, **EXPERTS, "attention_bias": True, "use_qk_norm": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TINY)
def test_a_declaration_names_every_tensor_that_transformers_saves(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **TINY[kind])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    with (tmp_path / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        saved = {name: tuple(entry["shape"]) for name, entry in json.loads(file.read(length)).items() if name[0] != "_"}
    one = Mesh.of(Parallelism())
    declared = {
        name: tuple(len(r) for r in ranges)
        for weight in declare(raw).weights
        for name, ranges in weight.tensors(one, 0).items()
    }
    assert declared == saved


def test_published_models_have_the_parameters_of_their_names() -> None:
    one = Mesh.of(Parallelism())
    wanted = {"smollm2-135m": 0.135, "llama-3-8b": 8.03, "qwen2-7b": 7.62, "qwen3-8b": 8.19, "qwen3-30b-a3b": 30.5}
    wanted |= {"deepseek-v2-lite": 15.7, "deepseek-v3": 671, "kimi-k2": 1026, "glm-4.7-flash": 29.9, "glm-4.5": 353}
    assert set(wanted) == set(PUBLISHED)
    for name, billions in wanted.items():
        found = sum(weight.values(one, 0) for weight in declare(PUBLISHED[name]).weights) / 1e9
        assert found == pytest.approx(billions, rel=0.01), name


def test_every_family_is_published_or_compared() -> None:
    assert {config["model_type"] for config in PUBLISHED.values()} == set(FAMILIES)
    assert set(TINY) == set(FAMILIES) - {"kimi_k2"}  # a deepseek_v3 by another name
