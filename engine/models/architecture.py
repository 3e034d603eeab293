"""What a kind of models adds to the decoder that all have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..spmd.families import declare
from ..spmd.runtime.place import Place
from .cache_layout import CacheLayout
from .config import DecoderConfig
from .decoder import ALONE, Decoder, Maker, cache_layout
from .fields import Fields
from .layers.rope import Rotary
from .model import Model
from .weights import Weights


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of models. `makers` takes what `read_config` gives.

    Its declaration, from which placements and collectives follow, is in `spmd.families`.
    """

    family: str
    """Its `model_type`, by which `spmd.families` declares it."""
    names: tuple[str, ...]
    """What else config.json calls it: `architectures[0]`, and other values of `model_type`."""
    read_config: Callable[[Fields], Any]
    """Checks every field that matters. Raises UnsupportedModel naming the one that is not supported."""
    makers: Callable[[Any, Rotary], Mapping[str, Maker]]
    """The code of every kind of module but embedding, head and dense feed-forward layers."""

    def cache_layout(self, config: DecoderConfig, dtype: torch.dtype) -> CacheLayout:
        """What a token adds to the cache, known without weights."""
        return cache_layout(declare(config.declared), ALONE, 0, dtype)

    def build(
        self,
        config: DecoderConfig,
        weights: Weights,
        dtype: torch.dtype,
        device: torch.device,
        place: Place | None = None,
    ) -> Model:
        """Read a rank's weights; all of them without a `place`.

        Raises UnsupportedModel or CheckpointError naming the tensor, and PlacementError if the model does not fit.
        """
        return Decoder(config, lambda table: self.makers(config, table), weights, dtype, device, place)
