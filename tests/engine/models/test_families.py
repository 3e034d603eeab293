"""What a family adds: wrapped and drafting checkpoints, random weights, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.models.fields import UnsupportedModel
from tokenspeed.engine.models.registry import known, read

from .tiny import FAMILIES, VOCABULARY, Pair, logits

pytestmark = pytest.mark.serve


def rewrite(pair: Pair, directory: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_bytes((pair.directory / "tokenizer.json").read_bytes())
    save_file(tensors, directory / "model.safetensors")
    return load_checkpoint(str(directory))


def saved(pair: Pair) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_file(pair.directory / "model.safetensors"), json.loads((pair.directory / "config.json").read_text())


def test_kimi_k2_5_is_its_text_model_behind_a_prefix(pairs: Callable[[str], Pair], tmp_path: Path) -> None:
    pair = pairs("kimi-k2")
    tensors, config = saved(pair)
    wrapped = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    outer = {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "text_config": {**config, "model_type": "kimi_k2"},
        "vision_config": {"hidden_size": 8},
    }
    seeing = {"vision_tower.patch_embed.weight": torch.ones(2, 2), "mm_projector.linear.weight": torch.ones(2, 2)}
    model = rewrite(pair, tmp_path, wrapped | seeing, outer).build(torch.float32, "cpu")
    ids = torch.arange(30)
    assert torch.equal(logits(model, ids), logits(pair.ours, ids))
    loose = {**wrapped, "model.norm.weight": tensors["model.norm.weight"].clone()}
    with pytest.raises(UnsupportedModel, match=r"holds the tensor model\.norm\.weight, which"):
        rewrite(pair, tmp_path, loose, outer).build(torch.float32, "cpu")


def test_layers_that_draft_are_left_out_only_if_the_config_has_them(
    pairs: Callable[[str], Pair], tmp_path: Path
) -> None:
    pair = pairs("deepseek-v3")
    tensors, config = saved(pair)
    layers = config["num_hidden_layers"]
    extra = {f"model.layers.{layers}.eh_proj.weight": torch.ones(2, 2)}
    config["num_nextn_predict_layers"] = 1
    model = rewrite(pair, tmp_path, tensors | extra, config).build(torch.float32, "cpu")
    ids = torch.arange(30)
    assert torch.equal(logits(model, ids), logits(pair.ours, ids))
    config["num_nextn_predict_layers"] = 0
    with pytest.raises(UnsupportedModel, match=rf"holds the tensor model\.layers\.{layers}\.eh_proj\.weight"):
        rewrite(pair, tmp_path, tensors | extra, config).build(torch.float32, "cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_alone_runs_with_random_weights(pairs: Callable[[str], Pair], tmp_path: Path, family: str) -> None:
    _, config = saved(pairs(family))
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_checkpoint(str(tmp_path), "dummy").build(torch.bfloat16, "cpu")
    scores = logits(model, torch.arange(10))
    assert scores.shape == (10, VOCABULARY)
    assert scores.isfinite().all()
    assert model.cache_layout == pairs(family).ours.cache_layout or model.dtype != pairs(family).ours.dtype


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("qwen3-moe", {"num_experts_per_tok": 9}, "num_experts_per_tok=9 is not supported: give a number from 1 to 8"),
        ("qwen3-moe", {"mlp_only_layers": "1"}, "mlp_only_layers='1'"),
        ("deepseek-v2", {"norm_topk_prob": True}, "norm_topk_prob=True"),
        ("deepseek-v2", {"topk_method": "noaux_tc"}, "topk_method='noaux_tc'"),
        ("deepseek-v3", {"kv_lora_rank": 256}, "kv_lora_rank=256 is not supported: only 512"),
        ("deepseek-v3", {"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ("deepseek-v3", {"n_group": 3}, "n_group=3 is not supported: give a divisor of the 8 experts"),
        ("deepseek-v3", {"topk_group": 5}, "topk_group=5"),
        (
            "deepseek-v3",
            {"num_experts_per_tok": 5},
            "num_experts_per_tok=5 is not supported: give a number from 1 to 4",
        ),
        ("glm-4.5", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ],
)
def test_what_a_family_cannot_do_is_named(
    pairs: Callable[[str], Pair], family: str, change: dict[str, Any], message: str
) -> None:
    _, config = saved(pairs(family))
    with pytest.raises(UnsupportedModel, match=message):
        read(config | change)


def test_an_unknown_architecture_is_told_what_is_known() -> None:
    with pytest.raises(UnsupportedModel, match=r"'MambaForCausalLM' is not supported: .*DeepseekV3ForCausalLM.*Llama"):
        read({"architectures": ["MambaForCausalLM"]})
    assert {"llama", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3", "glm4_moe", "kimi_k25"} <= set(known())
