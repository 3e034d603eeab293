"""Number formats of weights and KV cache, in bytes as they lie in GPU memory."""

from enum import Enum
from typing import Final

from ..errors import ConfigurationError


class Precision(Enum):
    """A storage format. The value is its name on the command line."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"

    @classmethod
    def parse(cls, text: str, field: str) -> "Precision":
        """The format called `text`. Raises ConfigurationError naming `field` if there is none."""
        for member in cls:
            if member.value == text.lower():
                return member
        raise ConfigurationError(f"{field} is {text!r}; use one of {', '.join(member.value for member in cls)}")


WEIGHT_BYTES: Final = {
    Precision.BF16: 2.0,
    Precision.FP8: 1.0 + 4.0 / (128 * 128),  # one fp32 scale per 128 x 128 block (DeepSeek-V3, arXiv 2412.19437)
    Precision.FP4: 0.5 + 1.0 / 16,  # NVFP4: one fp8 scale per 16 values
}
"""Bytes per weight of a linear layer, scales included. Embeddings and the output head stay in bf16."""

KV_BYTES: Final = {Precision.BF16: 2, Precision.FP8: 1}
"""Bytes per KV value. KV scales are left out: one per tensor in the common fp8 formats."""
