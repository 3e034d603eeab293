"""What the portable Triton kernels have in common. Only their modules import this: the package works without triton."""

from __future__ import annotations

import functools

import torch
import triton

from .device import Platform

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET=1 was set at import: the kernels then run on the CPU, slowly, for tests."""

PLATFORMS = (Platform("cuda", min_arch=80), Platform("cpu")) if INTERPRETED else (Platform("cuda", min_arch=80),)
"""Where portable kernels run."""

# The interpreter computes with the bit patterns of bfloat16 values as if they were integers.
DTYPES = (torch.float16, torch.float32) if INTERPRETED else (torch.bfloat16, torch.float16, torch.float32)
"""The dtypes of portable kernels."""


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a device; 4 for the interpreter, so that tests see work divided."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def next_power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`: the sizes that Triton's blocks have."""
    return 1 << max(size - 1, 0).bit_length()
