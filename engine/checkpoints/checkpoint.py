"""What every loader of checkpoints returns."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..models.config import LlamaConfig
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer


class CheckpointError(ValueError):
    """The checkpoint cannot be found, or a part of it is absent or damaged; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model. Weights are read when `tensors` is indexed, so opening is fast."""

    name: str
    """What clients call the model."""
    config: LlamaConfig
    tensors: Mapping[str, torch.Tensor]
    """Weights by Hugging Face name, on the CPU, in the checkpoint's precision (float32 if dequantised)."""
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None if the checkpoint has none: it can complete text but not chat."""
