"""Attention kernels behind one registry.

Operations: `paged_attention` (grouped-query attention over a paged KV cache), `write_kv` (store new keys and values),
`mla_decode` (absorbed multi-head latent attention) and `mla_prefill` (the same over expanded keys). Each picks a kernel
by device, dtype and shape; `explain` says which and why, `register` adds one. Importing this package needs torch only:
kernels are imported at first use.
"""

from .attention import paged_attention
from .constraints import Constraint, at_least, at_most, exactly, multiple_of, one_of, power_of_two
from .device import ANY_DEVICE, Capability, Platform
from .errors import InvalidKernel, KernelDoesNotFit, KernelError, UnknownKernel, UnknownOperation
from .kernel import Band, Candidate, Kernel, Problem, Selection
from .kv_cache import write_kv
from .mla import MlaPlan, mla_decode, plan_mla_decode
from .mla_prefill import merge_attention, mla_prefill, mla_prefill_chunks
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
    "MlaPlan",
    "Platform",
    "Problem",
    "Selection",
    "UnknownKernel",
    "UnknownOperation",
    "at_least",
    "at_most",
    "exactly",
    "explain",
    "merge_attention",
    "mla_decode",
    "mla_prefill",
    "mla_prefill_chunks",
    "multiple_of",
    "one_of",
    "paged_attention",
    "plan_mla_decode",
    "power_of_two",
    "register",
    "write_kv",
]
