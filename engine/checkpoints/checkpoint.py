"""What every loader of checkpoints returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..models.architecture import Architecture
from ..models.model import Model
from ..models.weights import Weights
from ..spmd.runtime.place import Place
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer


class CheckpointError(ValueError):
    """The checkpoint cannot be found, or a part of it is absent or damaged; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model. Weights are read when the model is built, so opening is fast."""

    name: str
    """What clients call the model."""
    architecture: Architecture
    config: Any
    """What `architecture.read_config` gave."""
    tensors: Mapping[str, torch.Tensor]
    """Weights by Hugging Face name, on the CPU, in the checkpoint's precision (float32 if dequantised)."""
    weights: Weights
    """What the model reads: those tensors, or random ones."""
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None if the checkpoint has none: it can complete text but not chat."""

    def build(self, dtype: torch.dtype, device: torch.device | str, place: Place | None = None) -> Model:
        """Read a rank's weights onto `device`; all of them without a `place`.

        Raises UnsupportedModel or CheckpointError naming the tensor, and PlacementError if the model does not fit.
        """
        return self.architecture.build(self.config, self.weights, dtype, torch.device(device), place)
