"""Weights out of the tensors of a checkpoint: all of them are there, none is left over, and every value is a number."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

import torch

from ..models.fields import UnsupportedModel
from .checkpoint import CheckpointError
from .quantization import Widened, is_ignored
from .tensors import Tensors

logger = logging.getLogger(__name__)

_TELL_EVERY = 5.0
"""Seconds between two lines about the progress of reading."""
_SHOWN = 8
"""Names in an error that has many."""


class CheckpointWeights:
    """Tensors of a checkpoint in the precision and on the device that a model asks for."""

    def __init__(self, tensors: Tensors, prefix: str = "") -> None:
        """`prefix`: what the checkpoint puts before the names that the model knows ("language_model.")."""
        self._tensors = tensors
        self._prefix = prefix
        self._expected = self._read = 0
        self._told = time.monotonic()

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Sequence[str]) -> None:
        """See `models.weights.Weights`. Reads nothing but the headers of files."""
        self._expected = len(expected)
        absent = [name for name in expected if self._prefix + name not in self._tensors]
        if absent:
            raise UnsupportedModel(f"the checkpoint lacks {_listed('tensor', absent)}")
        for name, shape in expected.items():
            found = self._tensors.shape(self._prefix + name)
            if found != shape:
                where = self._tensors.where(self._prefix + name)
                raise UnsupportedModel(f"{where} has shape {found}, but the config says {shape}")
        stored = {self._prefix + name for name in expected}
        left = [name for name in self._tensors if name not in stored]
        passed = [name for name in left if is_ignored(name.removeprefix(self._prefix), tuple(ignored))]
        unknown = sorted(set(left) - set(passed))
        if unknown:
            raise UnsupportedModel(
                f"the checkpoint holds {_listed('tensor', unknown)}, which this architecture does not have"
            )
        if passed:
            logger.info("%d tensors of the checkpoint are not used: %s", len(passed), _listed("tensor", passed))
        if isinstance(self._tensors, Widened) and self._tensors.count:
            logger.warning(
                "%d weights in %s are widened: no kernel of this engine multiplies them as they are stored, so they "
                "take the memory of the model's dtype",
                self._tensors.count,
                self._tensors.label,
            )

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """See `models.weights.Weights`."""
        stored = self._prefix + name
        if stored not in self._tensors:
            raise UnsupportedModel(f"the checkpoint lacks the tensor {name}")
        where = self._tensors.where(stored)
        found = self._tensors.shape(stored)
        if found != shape:
            raise UnsupportedModel(f"{where} has shape {found}, but the config says {shape}")
        part = self._tensors.slice(stored, ranges or tuple(range(n) for n in shape))
        if not part.is_floating_point():
            raise CheckpointError(f"{where} holds {part.dtype}, not floating-point numbers")
        if part.element_size() == 1:
            raise CheckpointError(f"{where} holds {part.dtype} without scales: name its format in quantization_config")
        tensor = part.to(device=device, dtype=dtype).contiguous()
        if tensor.numel():
            least, most = torch.aminmax(tensor)
            if not (least.isfinite() and most.isfinite()):
                raise CheckpointError(f"{where} holds NaN or infinity in {dtype}: the checkpoint is damaged")
        self._read += 1
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            logger.info("weights: %d read, of %d in the checkpoint", self._read, self._expected)
        return tensor


def _listed(what: str, names: Iterable[str]) -> str:
    """ "the tensor x", or "3 tensors: x, y, z"."""
    names = sorted(names)
    if len(names) == 1:
        return f"the {what} {names[0]}"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}s: {', '.join(names[:_SHOWN])}{more}"
