"""A Llama checkpoint in a GGUF file, seen under Hugging Face's tensor names and rope layout."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from ..models.config import GroupedQueryConfig
from ..models.fields import Fields, UnsupportedModel
from ..models.registry import read
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer
from .checkpoint import Checkpoint
from .gguf_file import GGUFError, GGUFFile
from .tensors import WholeTensors
from .weights import CheckpointWeights

_OUTSIDE_LAYERS: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INSIDE_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER: Final = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_ROPE_DIVISORS: Final = "rope_freqs.weight"


def _hf_name(name: str) -> str:
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _INSIDE_LAYER:
        raise UnsupportedModel(f"the GGUF tensor {name!r} is not part of a Llama model without biases")
    return f"model.layers.{match[1]}.{_INSIDE_LAYER[match[2]]}.weight"


class GGUFTensors(Mapping[str, torch.Tensor]):
    """Tensors by Hugging Face name, float32, dequantised when asked for."""

    def __init__(self, file: GGUFFile, config: GroupedQueryConfig) -> None:
        self._file = file
        self._heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
        self._names = {_hf_name(name): name for name in file.tensors if name != _ROPE_DIVISORS}

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = torch.from_numpy(self._file.dequantize(self._names[name]))
        heads = self._heads.get(name.split(".")[-2])
        return weight if heads is None else _unpermute(weight, heads)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._file.tensors[self._names[name]].shape

    def __len__(self) -> int:
        return len(self._names)


def _unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF stores query and key rows so that rope turns neighbours (0, 1), (2, 3), ...; bring halves back."""
    rows, columns = weight.shape[0], weight.shape[-1]
    if weight.ndim != 2 or rows % (2 * heads):
        raise UnsupportedModel(f"a query or key matrix of shape {tuple(weight.shape)} does not fit {heads} heads")
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


_FIELDS: Final = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
    "vocab_size": "llama.vocab_size",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "llama.context_length",
    "rope_theta": "llama.rope.freq_base",
}
"""What config.json calls the keys of a Llama."""


def _config_fields(
    metadata: Mapping[str, Any], *, tied: bool, divisors: tuple[float, ...] | None
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The metadata as the fields of a config.json, and what the file calls these.

    `tied`: the file has no output matrix; `divisors`: its `rope_freqs.weight`, if any. Raises UnsupportedModel naming
    the architecture or the key that is not supported.
    """
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"general.architecture={architecture!r} is not supported: use a checkpoint with 'llama'")
    if metadata.get("llama.expert_count"):
        raise UnsupportedModel(
            f"llama.expert_count={metadata['llama.expert_count']!r} is not supported: use a dense model"
        )
    raw = {field: metadata[key] for field, key in _FIELDS.items() if key in metadata}
    raw |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": tied}
    if "vocab_size" not in raw and isinstance(metadata.get("tokenizer.ggml.tokens"), list | str):
        raw["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])  # a string is refused with the tokenizer
    fields = Fields(raw, "the GGUF metadata", _FIELDS)
    head_dim = fields.integer(
        "head_dim", max(1, fields.integer("hidden_size") // fields.integer("num_attention_heads"))
    )
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        turned = metadata["llama.rope.dimension_count"]
        raise UnsupportedModel(f"rope over {turned!r} of {head_dim} head dimensions is not supported")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if divisors is not None:
        raw["rope_parameters"] = {"rope_type": "divisors", "divisors": divisors}
    elif scaling == "linear":
        raw["rope_parameters"] = {"rope_type": "linear", "factor": metadata.get("llama.rope.scaling.factor")}
    elif scaling != "none":
        raise UnsupportedModel(f"llama.rope.scaling.type={scaling!r} is not supported: only none and linear are")
    return raw, _FIELDS


def load_gguf(path: Path, name: str) -> Checkpoint:
    """Open a .gguf file as the model `name`. Raises GGUFError, UnsupportedModel or UnsupportedTokenizer."""
    file = GGUFFile(path)
    divisors = None
    if _ROPE_DIVISORS in file.tensors:
        divisors = tuple(float(value) for value in file.dequantize(_ROPE_DIVISORS))
    raw, shown = _config_fields(file.metadata, tied="output.weight" not in file.tensors, divisors=divisors)
    architecture, config = read(raw, Fields(raw, "the GGUF metadata", shown))
    tokenizer = Tokenizer.from_gguf(file.metadata)
    source = file.metadata.get("tokenizer.chat_template")
    if source is not None and not isinstance(source, str):
        raise GGUFError(f"{path}: tokenizer.chat_template={source!r} is not a text")
    beyond = [token for token in sorted(tokenizer.eos_token_ids) if token >= config.vocab_size]
    if beyond:
        raise GGUFError(f"{path}: token {beyond[0]} ends answers but is not one of the model's {config.vocab_size}")
    tensors = GGUFTensors(file, config)
    return Checkpoint(
        name=name,
        architecture=architecture,
        config=config,
        tensors=tensors,
        weights=CheckpointWeights(WholeTensors(tensors, str(path))),
        tokenizer=tokenizer,
        chat_template=None if source is None else ChatTemplate(source, tokenizer.special_tokens),
    )
