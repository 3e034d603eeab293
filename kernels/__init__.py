"""Attention kernels behind one registry.

Operations: `paged_attention` (grouped-query attention over a paged KV cache), `write_kv` (store new keys and values)
and `mla_decode` (absorbed multi-head latent attention). Each picks a kernel by device, dtype and shape; `explain` says
which and why, `register` adds one. Importing this package needs torch only: kernels are imported at first use.
"""

from .attention import paged_attention
from .constraints import Constraint, Trait, at_least, at_most, exactly, multiple_of, one_of, power_of_two
from .device import ANY_DEVICE, Capability, Platform
from .errors import InvalidKernel, KernelDoesNotFit, KernelError, UnknownKernel, UnknownOperation
from .kernel import Band, Candidate, Kernel, Problem, Selection
from .kv_cache import write_kv
from .mla import mla_decode
from .registry import REGISTRY, explain, register

__all__ = [
    "ANY_DEVICE",
    "REGISTRY",
    "Band",
    "Candidate",
    "Capability",
    "Constraint",
    "InvalidKernel",
    "Kernel",
    "KernelDoesNotFit",
    "KernelError",
    "Platform",
    "Problem",
    "Selection",
    "Trait",
    "UnknownKernel",
    "UnknownOperation",
    "at_least",
    "at_most",
    "exactly",
    "explain",
    "mla_decode",
    "multiple_of",
    "one_of",
    "paged_attention",
    "power_of_two",
    "register",
    "write_kv",
]
