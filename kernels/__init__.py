"""The operations of a model behind one registry of kernels.

Attention: `paged_attention` (grouped-query attention over a paged KV cache), `mla_decode` (absorbed multi-head latent
attention), `mla_prefill` (the same over expanded keys), `write_kv` (store new keys and values). Around it: `rms_norm`,
`rotary`, `silu_mul`. Mixtures of experts: `moe_route`, `grouped_gemm`, `moe_mlp`. At the end: `sample_tokens`. Each
picks a kernel by device, dtype and shape; `explain` says which and why, `register` adds one. Importing this package
needs torch only: kernels are imported at first use.
"""

from .activation import silu_mul
from .attention import AttentionPlan, paged_attention, plan_paged_attention
from .constraints import Constraint, Trait, at_least, at_most, exactly, multiple_of, one_of, power_of_two
from .device import ANY_DEVICE, Capability, Platform
from .errors import InvalidKernel, KernelDoesNotFit, KernelError, UnknownKernel, UnknownOperation
from .kernel import Band, Candidate, Kernel, Problem, Selection
from .kv_cache import write_kv
from .mla import MlaPlan, mla_decode, plan_mla_decode
from .mla_prefill import merge_attention, mla_prefill, mla_prefill_chunks
from .moe import grouped_gemm, moe_mlp, moe_route
from .norm import rms_norm
from .registry import REGISTRY, explain, register
from .rotary import rotary
from .sampling import sample_tokens

__all__ = [
    "ANY_DEVICE",
    "REGISTRY",
    "AttentionPlan",
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
    "Trait",
    "UnknownKernel",
    "UnknownOperation",
    "at_least",
    "at_most",
    "exactly",
    "explain",
    "grouped_gemm",
    "merge_attention",
    "mla_decode",
    "mla_prefill",
    "mla_prefill_chunks",
    "moe_mlp",
    "moe_route",
    "multiple_of",
    "one_of",
    "paged_attention",
    "plan_mla_decode",
    "plan_paged_attention",
    "power_of_two",
    "register",
    "rms_norm",
    "rotary",
    "sample_tokens",
    "silu_mul",
    "write_kv",
]
