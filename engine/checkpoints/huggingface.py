"""A checkpoint in a Hugging Face directory: config.json, safetensors (one file or shards), tokenizer.json."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..models.registry import read
from ..models.weights import DummyWeights, Weights
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer
from .checkpoint import Checkpoint, CheckpointError
from .dummy import placeholder_tokenizer
from .weights import CheckpointWeights


class SafetensorsTensors(Mapping[str, torch.Tensor]):
    """Tensors by name from model.safetensors or the shards of model.safetensors.index.json, read when asked for."""

    def __init__(self, directory: Path) -> None:
        """Raises CheckpointError if there are no safetensors, or a shard is absent or damaged."""
        index = directory / "model.safetensors.index.json"
        if index.exists():
            weight_map = _read_json(index).get("weight_map", {})
            files = sorted(set(weight_map.values()))
        else:
            weight_map, files = None, ["model.safetensors"]
        self._files = {}
        for file in files:
            if not (directory / file).exists():
                raise CheckpointError(f"{directory} lacks {file}: download the checkpoint again, with its safetensors")
            try:
                self._files[file] = safe_open(directory / file, framework="pt")
            except SafetensorError as error:
                raise CheckpointError(f"{directory / file} is damaged: {error}") from error
        self._where: dict[str, str] = weight_map or {name: file for file, f in self._files.items() for name in f.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[self._where[name]].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} lacks {path.name}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return value


def _optional_json(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.exists() else {}


def _token_text(value: Any) -> str | None:
    """A special token in tokenizer_config.json is its text, or an object that holds the text."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _chat_template_source(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    value = tokenizer_config.get("chat_template")
    if isinstance(value, list):  # several named templates
        named = {str(entry["name"]): entry["template"] for entry in value}
        value = named.get("default")
    return value if isinstance(value, str) else None


def load_directory(directory: Path, name: str, *, dummy: bool = False) -> Checkpoint:
    """Open a Hugging Face directory as the model `name`. `dummy`: with random weights; only config.json is needed then.

    Raises CheckpointError for a file that is absent or damaged, UnsupportedModel or UnsupportedTokenizer for contents
    that are not supported.
    """
    raw = _read_json(directory / "config.json")
    architecture, config = read(raw)
    tokenizer_config = _optional_json(directory / "tokenizer_config.json")
    special = {
        key: text
        for key, value in tokenizer_config.items()
        if key.endswith("_token") and (text := _token_text(value)) is not None
    }
    if dummy and not (directory / "tokenizer.json").exists():
        tokenizer = placeholder_tokenizer(config.vocab_size)
    else:
        tokenizer = _tokenizer(directory, raw, special)
    source = _chat_template_source(directory, tokenizer_config)
    tensors: Mapping[str, torch.Tensor] = {} if dummy else SafetensorsTensors(directory)
    weights: Weights = DummyWeights() if dummy else CheckpointWeights(tensors)
    return Checkpoint(
        name=name,
        architecture=architecture,
        config=config,
        tensors=tensors,
        weights=weights,
        tokenizer=tokenizer,
        chat_template=None if source is None else ChatTemplate(source, special),
    )


def _tokenizer(directory: Path, raw: Mapping[str, Any], special: Mapping[str, str]) -> Tokenizer:
    if not (directory / "tokenizer.json").exists():
        raise CheckpointError(f"{directory} lacks tokenizer.json: save the tokenizer in the fast format")
    return Tokenizer.from_file(
        directory / "tokenizer.json",
        eos_token_ids=_eos_ids(raw, _optional_json(directory / "generation_config.json")),
        special_tokens=special,
    )


def _eos_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> list[int]:
    """What ends an answer: generation_config.json knows best (an instruct model adds its end of turn there)."""
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    if value is None:
        return []
    return [int(i) for i in value] if isinstance(value, list) else [int(value)]
