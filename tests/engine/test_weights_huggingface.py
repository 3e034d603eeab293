"""Hugging Face directories: logits against transformers, and clear errors for what is absent or not supported."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from tokenspeed.engine.checkpoints.checkpoint import Checkpoint, CheckpointError
from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.models.fields import UnsupportedModel
from tokenspeed.engine.models.model import StepInputs
from tokenspeed.engine.run.kv_cache import KVCache
from tokenspeed.engine.text.tokenizer import UnsupportedTokenizer

pytestmark = pytest.mark.serve

hf: Any = transformers  # typed in part only

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def save(directory: Path, *, shard_size: str = "1GB", **overrides: Any) -> Any:
    """Write a random model and its tokenizer as transformers does, and return the model."""
    settings: dict[str, Any] = {
        "vocab_size": 90,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        "bos_token_id": 1,
        "eos_token_id": 2,
        **overrides,
    }
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(initializer_range=0.2, **settings)).float().eval()
    model.save_pretrained(directory, max_shard_size=shard_size)
    vocab = {chr(33 + i): i for i in range(90)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.save(str(directory / "tokenizer.json"))
    return model


def logits(checkpoint: Checkpoint, ids: torch.Tensor) -> torch.Tensor:
    """[n, vocab] for one sequence, run in one piece."""
    model = checkpoint.build(torch.float32, "cpu")
    n = len(ids)
    blocks = -(-n // 16)
    rows = StepInputs(
        positions=torch.arange(n),
        slot_mapping=torch.arange(n),
        block_table=torch.arange(blocks, dtype=torch.int32)[None],
        context_lens=torch.tensor([n], dtype=torch.int32),
        query_start=torch.tensor([0, n], dtype=torch.int32),
    )
    cache = KVCache(model.cache_layout, blocks, 16, model.device)
    return model.logits(model.forward(ids, rows, cache))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 32},
        {"rms_norm_eps": 0.1},
        {"rope_parameters": LLAMA3_ROPE},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0}},
    ],
    ids=lambda overrides: "-".join(overrides) or "plain",
)
def test_logits_equal_those_of_transformers(tmp_path: Path, overrides: dict[str, Any]) -> None:
    model = save(tmp_path, **overrides)
    ids = torch.randint(0, 90, (200,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
    torch.testing.assert_close(logits(load_checkpoint(str(tmp_path)), ids), expected, rtol=1e-4, atol=1e-4)


def test_shards_are_read_as_one_file_is(tmp_path: Path) -> None:
    model = save(tmp_path, shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    tensors = load_checkpoint(str(tmp_path)).tensors
    expected = model.state_dict()
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_old_configs_keep_the_rope_fields_apart(tmp_path: Path) -> None:
    save(tmp_path, rope_parameters=LLAMA3_ROPE)
    new = load_checkpoint(str(tmp_path)).config
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(str(tmp_path)).config == new


def test_the_ends_of_an_answer_come_from_the_generation_config_and_the_tokenizer(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"eos_token": {"content": "("}, "bos_token": "\\"", "pad_token": null}'
    )
    tokenizer = load_checkpoint(str(tmp_path)).tokenizer
    assert tokenizer.eos_token_ids == {2, 5, 7}
    assert tokenizer.bos_token_id == 1
    assert tokenizer.special_tokens == {"bos_token": '"', "eos_token": "("}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (None, None, None),
        ("chat_template.jinja", "from a file", "from a file"),
        ("tokenizer_config.json", '{"chat_template": "from the config"}', "from the config"),
        (
            "tokenizer_config.json",
            '{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "the default"}]}',
            "the default",
        ),
    ],
)
def test_the_chat_template_is_found(tmp_path: Path, file: str | None, content: str, expected: str | None) -> None:
    save(tmp_path)
    if file is not None:
        (tmp_path / file).write_text(content)
    template = load_checkpoint(str(tmp_path)).chat_template
    assert (None if template is None else template.render([])) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", ["MistralForCausalLM"]),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("quantization_config", {"quant_method": "gptq"}),
        ("rope_parameters", {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}),
        ("num_attention_heads", None),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 3),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, field: str, value: object) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if value is None:
        del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config if value is None else config | {field: value}))
    shown = value[0] if isinstance(value, list) else "rope_type" if field == "rope_parameters" else field
    with pytest.raises(UnsupportedModel, match=str(shown)):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_absent_or_damaged_file_is_named(tmp_path: Path, file: str) -> None:
    save(tmp_path)
    (tmp_path / file).write_bytes(b'{"version": ')
    with pytest.raises((CheckpointError, UnsupportedTokenizer), match=file):
        load_checkpoint(str(tmp_path))
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {file}"):
        load_checkpoint(str(tmp_path))


def test_weights_that_do_not_fit_the_config_are_named(tmp_path: Path) -> None:
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        (
            {"intermediate_size": 128},
            r"model\.safetensors: model\.layers\.0\.mlp\.gate_proj\.weight has shape \(112, 64\)",
        ),
        ({"num_hidden_layers": 4}, r"lacks 9 tensors: model\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"holds 9 tensors: model\.layers\.2\..* and 1 more, which this architecture"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        checkpoint = load_checkpoint(str(tmp_path))
        with pytest.raises(UnsupportedModel, match=message):
            checkpoint.build(torch.float32, "cpu")


def rewrite(directory: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or remove tensors of the saved model."""
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    save(tmp_path)
    name = "model.layers.1.self_attn.k_proj.weight"
    weight = load_file(tmp_path / "model.safetensors")[name]
    weight[-1, 3] = value
    rewrite(tmp_path, **{name: weight})
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name} holds NaN or infinity"):
        load_checkpoint(str(tmp_path)).build(torch.float32, "cpu")


def test_weights_of_another_type_are_named(tmp_path: Path) -> None:
    save(tmp_path)
    rewrite(tmp_path, **{"model.norm.weight": torch.ones(64, dtype=torch.int32)})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds torch.int32"):
        load_checkpoint(str(tmp_path)).build(torch.float32, "cpu")
    rewrite(tmp_path, **{"model.norm.weight": torch.ones(64).to(torch.float8_e4m3fn)})
    with pytest.raises(CheckpointError, match=r"float8_e4m3fn without scales: name its format in quantization_config"):
        load_checkpoint(str(tmp_path)).build(torch.float32, "cpu")


def test_tensors_without_a_use_are_refused_unless_they_are_known(tmp_path: Path) -> None:
    save(tmp_path)
    rewrite(tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load_checkpoint(str(tmp_path)).build(torch.float32, "cpu")
    rewrite(tmp_path, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(64)})
    with pytest.raises(UnsupportedModel, match=r"holds the tensor model\.layers\.0\.self_attn\.q_proj\.bias, which"):
        load_checkpoint(str(tmp_path)).build(torch.float32, "cpu")


NAN, HUGE = float("nan"), 2**40


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"architectures": 5}, "architecture 5 is not supported"),
        ("config.json", {"quantization_config": "fp8"}, "quantization_config='fp8'"),
        ("config.json", {"rope_parameters": [1]}, r"rope_parameters=\[1\]"),
        ("config.json", {"rope_parameters": "yarn"}, "rope_parameters='yarn'"),
        ("config.json", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor=0"),
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": NAN}}, "rope_theta=nan"),
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, r"rope_theta=-1\.0"),
        ("config.json", {"rope_parameters": {"rope_type": 7}}, "rope_type=7"),
        ("config.json", {"rms_norm_eps": NAN}, "rms_norm_eps=nan"),
        ("config.json", {"max_position_embeddings": HUGE}, f"max_position_embeddings={HUGE}"),
        ("config.json", {"vocab_size": True}, "vocab_size=True"),
        ("config.json", {"hidden_size": "64"}, "hidden_size='64'"),
        ("config.json", {"num_hidden_layers": 2.5}, r"num_hidden_layers=2\.5"),
        ("config.json", {"tie_word_embeddings": "no"}, "tie_word_embeddings='no'"),
        ("config.json", {"eos_token_id": 10**9}, r"config\.json: eos_token_id=1000000000 is not one of"),
        ("generation_config.json", {"eos_token_id": [2, "a"]}, r"generation_config\.json: eos_token_id='a'"),
        ("generation_config.json", {"eos_token_id": 90}, r"eos_token_id=90 is not one of the model's 90 tokens"),
        ("tokenizer_config.json", {"chat_template": 3}, r"tokenizer_config\.json: chat_template=3 is not a text"),
        ("tokenizer_config.json", {"chat_template": [{"name": "default", "template": 1}]}, "chat_template=1"),
        ("model.safetensors.index.json", {"weight_map": 3}, r"index\.json: weight_map must be an object"),
        ("model.safetensors.index.json", {"weight_map": {"a": 3}}, r"index\.json: weight_map must be an object"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../x"}}, r"names '\.\./x', which is not a file beside"),
        ("model.safetensors.index.json", {"weight_map": {"a": "model.safetensors"}}, "says that a is in model.safet"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    save(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    path = tmp_path / file
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | changes))
    with pytest.raises((CheckpointError, UnsupportedModel), match=message):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_file_cut_short_is_named(tmp_path: Path, part: float) -> None:
    save(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(str(tmp_path))


def test_half_precision_stays_close_to_full_precision(tmp_path: Path) -> None:
    save(tmp_path, hidden_size=128)
    checkpoint = load_checkpoint(str(tmp_path))
    model = checkpoint.build(torch.bfloat16, "cpu")
    ids = torch.arange(40) % 90
    rows = StepInputs(
        positions=torch.arange(40),
        slot_mapping=torch.arange(40),
        block_table=torch.arange(3, dtype=torch.int32)[None],
        context_lens=torch.tensor([40], dtype=torch.int32),
        query_start=torch.tensor([0, 40], dtype=torch.int32),
    )
    cache = KVCache(model.cache_layout, 3, 16, model.device)
    half = model.logits(model.forward(ids, rows, cache))
    assert half.dtype == torch.bfloat16
    full = logits(checkpoint, ids)
    similarity = torch.nn.functional.cosine_similarity(half.float(), full)
    assert similarity.mean() > 0.998
    assert similarity.min() > 0.97  # a random model has tokens that hang on little
