"""Architectures by the name that config.json gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch

from .cache_layout import CacheLayout
from .config import UnsupportedModel, config_from_hf
from .llama import LlamaModel, llama_cache
from .model import Model
from .weights import Weights


class ModelConfig(Protocol):
    """What is known of a model before it is built, whatever its architecture."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""

    @property
    def max_position_embeddings(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to read the configuration of a kind of models, and to build them. All functions take what the first gives."""

    read_config: Callable[[Mapping[str, Any]], Any]
    """From config.json. Raises UnsupportedModel naming the field that is not supported."""
    cache_layout: Callable[[Any, torch.dtype], CacheLayout]
    """What a token adds to the cache, known without weights."""
    build: Callable[[Any, Weights, torch.dtype, torch.device], Model]
    """Reads all weights."""


LLAMA: Final = Architecture(config_from_hf, llama_cache, LlamaModel)

ARCHITECTURES: Final[dict[str, Architecture]] = {"LlamaForCausalLM": LLAMA, "llama": LLAMA}
"""By `architectures[0]` of config.json, or `model_type` if that is absent."""


def architecture_of(raw: Mapping[str, Any]) -> Architecture:
    """The architecture that a config.json asks for. Raises UnsupportedModel naming it and those that are known."""
    names = raw.get("architectures") or [raw.get("model_type")]
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModel(f"architecture {name!r} is not supported: use a checkpoint of one of {known}")
    return ARCHITECTURES[name]
