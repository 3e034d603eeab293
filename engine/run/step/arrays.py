"""What a step needs besides weights and cache, laid out in one buffer that crosses to the device in one copy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = TypeVar("Array")


@dataclass(frozen=True, slots=True)
class StepShape:
    """Sizes of a step. Steps of one shape have their arrays at the same places of a buffer."""

    tokens: int
    rows: int
    results: int
    """Tokens that the step samples."""


@dataclass(frozen=True, slots=True)
class StepArrays(Generic[Array]):
    """The inputs of one step: numpy views of a host buffer, or tensors on the device."""

    slot_mapping: Array
    """int64 [tokens] block * block_size + offset: where each token's key and value go."""
    token_slots: Array
    """int64 [tokens] slot of the token's request: whose last sampled token replaces an input id of -1."""
    row_slots: Array
    """int64 [rows] row of the block table."""
    last: Array
    """int64 [results] index of the token whose output is sampled from."""
    result_slots: Array
    """int64 [results] slot that remembers the sampled token."""
    uniform: Array
    """float64 [results] random number in [0, 1)."""
    input_ids: Array
    """int32 [tokens], -1 for a token that is on the device only."""
    positions: Array
    """int32 [tokens] position in its sequence."""
    context_lens: Array
    """int32 [rows] tokens of the row's sequence including the ones of this step."""
    query_start: Array
    """int32 [rows + 1] where each row begins among the tokens."""
    temperature: Array
    """float32 [results]"""
    top_p: Array
    """float32 [results]"""
    min_p: Array
    """float32 [results]"""
    top_k: Array
    """int32 [results]"""


# Eight-byte values first, so that everything is aligned.
_FIELDS: Final = (
    ("slot_mapping", np.int64, "tokens"),
    ("token_slots", np.int64, "tokens"),
    ("row_slots", np.int64, "rows"),
    ("last", np.int64, "results"),
    ("result_slots", np.int64, "results"),
    ("uniform", np.float64, "results"),
    ("input_ids", np.int32, "tokens"),
    ("positions", np.int32, "tokens"),
    ("context_lens", np.int32, "rows"),
    ("query_start", np.int32, "starts"),
    ("temperature", np.float32, "results"),
    ("top_p", np.float32, "results"),
    ("min_p", np.float32, "results"),
    ("top_k", np.int32, "results"),
)
_TORCH: Final = {np.int64: torch.int64, np.float64: torch.float64, np.int32: torch.int32, np.float32: torch.float32}


@functools.lru_cache(maxsize=4096)
def _layout(shape: StepShape) -> tuple[tuple[slice, ...], int]:
    """Where the bytes of each field are, and how many there are in all."""
    sizes = {"tokens": shape.tokens, "rows": shape.rows, "results": shape.results, "starts": shape.rows + 1}
    places, end = [], 0
    for _, dtype, size in _FIELDS:
        begin, end = end, end + sizes[size] * np.dtype(dtype).itemsize
        places.append(slice(begin, end))
    return tuple(places), end


def buffer_bytes(shape: StepShape) -> int:
    """Bytes of a step of this shape."""
    return _layout(shape)[1]


def host_arrays(buffer: NDArray[np.uint8], shape: StepShape) -> StepArrays[NDArray[np.generic]]:
    """Views of the buffer's first bytes, to be written."""
    places, _ = _layout(shape)
    fields = zip(places, _FIELDS, strict=True)
    return StepArrays(*(buffer[place].view(dtype) for place, (_, dtype, _) in fields))


def device_arrays(buffer: torch.Tensor, shape: StepShape) -> StepArrays[torch.Tensor]:
    """The same places of a uint8 tensor."""
    places, _ = _layout(shape)
    return StepArrays(
        *(buffer[place].view(_TORCH[dtype]) for place, (_, dtype, _) in zip(places, _FIELDS, strict=True))
    )
