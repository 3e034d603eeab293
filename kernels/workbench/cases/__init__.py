"""Problems with exact results, on which `tokenspeed kernels --check` runs every kernel: one module for each subject.

Exact results come from dense formulas in float64, on the inputs as rounded to their dtype, that share no code with the
kernels or the references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from . import attention, kv_cache, mla, mla_prefill, moe, pointwise, sampling
from .case import Case, MakeCase, RelativeError, Results

__all__ = ["Case", "RelativeError", "Results", "case_makers"]


def case_makers() -> Iterator[tuple[str, Callable[[torch.device], Case]]]:
    """The operation of each case, and what makes it on a device; always in the same order, always the same values."""
    modules = (attention, kv_cache, mla, mla_prefill, moe, pointwise, sampling)
    makers: list[tuple[str, MakeCase]] = [maker for module in modules for maker in module.makers()]
    for seed, (operation, make) in enumerate(makers):

        def seeded(device: torch.device, make: MakeCase = make, seed: int = seed) -> Case:
            return make(device, torch.Generator().manual_seed(seed))

        yield operation, seeded
