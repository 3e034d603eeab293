"""A Llama checkpoint in a GGUF file, seen under Hugging Face's tensor names and rope layout."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch

from ..models.config import LlamaConfig, UnsupportedModel, config_from_gguf
from ..models.registry import LLAMA
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer
from .checkpoint import Checkpoint
from .gguf_file import GGUFFile
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

    def __init__(self, file: GGUFFile, config: LlamaConfig) -> None:
        self._file = file
        self._heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
        self._names = {_hf_name(name): name for name in file.tensors if name != _ROPE_DIVISORS}

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = torch.from_numpy(self._file.dequantize(self._names[name]))
        heads = self._heads.get(name.split(".")[-2])
        return weight if heads is None else _unpermute(weight, heads)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _unpermute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF stores query and key rows so that rope turns neighbours (0, 1), (2, 3), ...; bring halves back."""
    rows, columns = weight.shape[0], weight.shape[-1]
    if weight.ndim != 2 or rows % (2 * heads):
        raise UnsupportedModel(f"a query or key matrix of shape {tuple(weight.shape)} does not fit {heads} heads")
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def load_gguf(path: Path, name: str) -> Checkpoint:
    """Open a .gguf file as the model `name`. Raises GGUFError, UnsupportedModel or UnsupportedTokenizer."""
    file = GGUFFile(path)
    divisors = None
    if _ROPE_DIVISORS in file.tensors:
        divisors = tuple(float(value) for value in file.dequantize(_ROPE_DIVISORS))
    config = config_from_gguf(file.metadata, tied="output.weight" not in file.tensors, divisors=divisors)
    tokenizer = Tokenizer.from_gguf(file.metadata)
    source = file.metadata.get("tokenizer.chat_template")
    tensors = GGUFTensors(file, config)
    return Checkpoint(
        name=name,
        architecture=LLAMA,
        config=config,
        tensors=tensors,
        weights=CheckpointWeights(tensors),
        tokenizer=tokenizer,
        chat_template=None if source is None else ChatTemplate(source, tokenizer.special_tokens),
    )
