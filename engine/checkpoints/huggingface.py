"""A checkpoint in a Hugging Face directory: config.json, safetensors (one file or shards), tokenizer.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.registry import read
from ..models.weights import DummyWeights, Weights
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer
from .checkpoint import Checkpoint, CheckpointError
from .dummy import placeholder_tokenizer
from .json_files import optional_json, read_json
from .quantization import widened
from .tensors import SafetensorsTensors
from .weights import CheckpointWeights


def _token_text(value: Any) -> str | None:
    """A special token in tokenizer_config.json is its text, or an object that holds the text."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _chat_template_source(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.exists():
        return _read_text(file)
    value = tokenizer_config.get("chat_template")
    if isinstance(value, list):  # several named templates
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{directory / 'tokenizer_config.json'}: chat_template={value!r} is not a text")
    return value


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not UTF-8 text: {error}") from error


def load_directory(directory: Path, name: str, *, dummy: bool = False) -> Checkpoint:
    """Open a Hugging Face directory as the model `name`. `dummy`: with random weights; only config.json is needed then.

    Raises CheckpointError for a file that is absent or damaged, UnsupportedModel or UnsupportedTokenizer for contents
    that are not supported.
    """
    raw = read_json(directory / "config.json")
    architecture, config = read(raw)
    tokenizer_config = optional_json(directory / "tokenizer_config.json")
    special = {
        key: text
        for key, value in tokenizer_config.items()
        if key.endswith("_token") and (text := _token_text(value)) is not None
    }
    if dummy and not (directory / "tokenizer.json").exists():
        tokenizer = placeholder_tokenizer(config.vocab_size)
    else:
        tokenizer = _tokenizer(directory, raw, special, config.vocab_size)
    source = _chat_template_source(directory, tokenizer_config)
    tensors: Mapping[str, torch.Tensor] = {}
    weights: Weights = DummyWeights()
    if not dummy:
        tensors = stored = SafetensorsTensors(directory)
        weights = CheckpointWeights(widened(stored, config.quantization), config.weight_prefix)
    return Checkpoint(
        name=name,
        architecture=architecture,
        config=config,
        tensors=tensors,
        weights=weights,
        tokenizer=tokenizer,
        chat_template=None if source is None else ChatTemplate(source, special),
    )


def _tokenizer(directory: Path, raw: Mapping[str, Any], special: Mapping[str, str], vocab_size: int) -> Tokenizer:
    if not (directory / "tokenizer.json").exists():
        raise CheckpointError(f"{directory} lacks tokenizer.json: save the tokenizer in the fast format")
    return Tokenizer.from_file(
        directory / "tokenizer.json", eos_token_ids=_eos_ids(directory, raw, vocab_size), special_tokens=special
    )


def _eos_ids(directory: Path, config: Mapping[str, Any], vocab_size: int) -> list[int]:
    """What ends an answer: generation_config.json knows best (an instruct model adds its end of turn there).

    Raises CheckpointError naming the file whose token the model does not have.
    """
    file, value = "config.json", config.get("eos_token_id")
    generation = optional_json(directory / "generation_config.json")
    if "eos_token_id" in generation:
        file, value = "generation_config.json", generation["eos_token_id"]
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise CheckpointError(
                f"{directory / file}: eos_token_id={token!r} is not one of the model's {vocab_size} tokens"
            )
    return ids
