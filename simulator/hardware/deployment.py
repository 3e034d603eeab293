"""A model placed on GPUs: how its weights split over tensor-parallel ranks and how many KV blocks are left."""

from dataclasses import dataclass
from math import ceil
from typing import Final

from ..errors import ConfigurationError
from .gpus import Gpu
from .model_shapes import GroupedQueryAttention, ModelShape
from .precision import KV_BYTES, WEIGHT_BYTES, Precision

PCIE_EFFICIENCY: Final = 0.85
"""Share of one-way PCIe bandwidth that copies of pinned pages reach. Typical: 0.8 to 0.9."""
USABLE_MEMORY: Final = 0.90
"""Share of HBM given to weights and KV cache unless a study says otherwise; the rest is for the CUDA context, graphs
and activations. Engines default to 0.85 to 0.95."""

NVLINK_DOMAIN: Final = 8
"""GPUs in one NVLink domain of an HGX board; the all-reduce estimate holds inside one."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One replica: a model on `tp` GPUs with tensor parallelism (Megatron-LM, arXiv 1909.08053).

    Attention heads, feed-forward layers and every expert are split over the ranks. Grouped-query KV heads are split as
    far as there are heads; the MLA latent has no heads, so each rank keeps all of it.
    """

    model: ModelShape
    gpu: Gpu
    tp: int
    weights: Precision
    kv: Precision
    usable_memory: float = USABLE_MEMORY
    """Share of HBM given to weights and KV cache."""

    def __post_init__(self) -> None:
        heads = self.model.attention.heads
        sizes = [n for n in range(1, NVLINK_DOMAIN + 1) if heads % n == 0]
        if self.tp not in sizes:
            raise ConfigurationError(
                f"tp is {self.tp}; {self.model.name} has {heads} attention heads and one NVLink domain {NVLINK_DOMAIN} "
                f"GPUs, so use one of {', '.join(map(str, sizes))}"
            )
        if not 0 < self.usable_memory <= 1:
            raise ConfigurationError(f"usable_memory is {self.usable_memory}; it must be above 0 and at most 1")
        if self.kv not in KV_BYTES:
            raise ConfigurationError(
                f"kv_dtype is {self.kv.value!r}; use one of {', '.join(p.value for p in KV_BYTES)}"
            )

    @property
    def weight_bytes_per_gpu(self) -> float:
        """Bytes of weights on one rank. Linear layers in `weights`, embeddings and head in bf16."""
        linear = self.model.always_parameters + self.model.routed_parameters
        return (linear * WEIGHT_BYTES[self.weights] + self.model.embedding_parameters * 2) / self.tp

    @property
    def kv_bytes_per_token(self) -> float:
        """KV bytes that one token takes on one rank, over all layers."""
        values = self.model.kv_values_per_token()
        attention = self.model.attention
        if isinstance(attention, GroupedQueryAttention):
            values = values // min(self.tp, attention.kv_heads)
        return float(values * KV_BYTES[self.kv])

    @property
    def host_tokens_per_s(self) -> float:
        """KV tokens that cross the link to the host in one direction: every rank copies its own share."""
        return self.gpu.pcie_bandwidth * PCIE_EFFICIENCY / self.kv_bytes_per_token

    def host_blocks(self, gib: float, block_size: int) -> int:
        """KV blocks that fit `gib` GiB of host memory, the shares of all ranks together."""
        return int(gib * 2**30 // (self.kv_bytes_per_token * self.tp * block_size))

    def kv_blocks(self, block_size: int) -> int:
        """KV blocks of `block_size` tokens that fit beside the weights.

        Raises ConfigurationError naming the GPU count needed if the weights leave no room.
        """
        budget = self.gpu.memory_bytes * self.usable_memory
        left = budget - self.weight_bytes_per_gpu
        blocks = int(left // (self.kv_bytes_per_token * block_size)) if left > 0 else 0
        if blocks < 2:
            raise ConfigurationError(self._does_not_fit(budget))
        return blocks

    def _does_not_fit(self, budget: float) -> str:
        """Says why the weights do not fit and how many GPUs would do."""
        total = self.weight_bytes_per_gpu * self.tp
        least = ceil(total / (0.95 * budget))
        heads = self.model.attention.heads
        needed = next((n for n in range(least, NVLINK_DOMAIN + 1) if heads % n == 0), None)
        if needed is None:
            fix = f"they need {least} GPUs, more than the {NVLINK_DOMAIN} of one NVLink domain"
            fix += "; use a larger --gpu"
        else:
            fix = f"use --tp {needed}"
        if self.weights is not Precision.FP4:
            fix += " or smaller --weights"
        return (
            f"tp is {self.tp}: {self.model.name} in {self.weights.value} has {total / 1e9:.0f} GB of weights, "
            f"{self.weight_bytes_per_gpu / 1e9:.0f} GB on each GPU, but a {self.gpu.name} has {budget / 1e9:.0f} GB "
            f"usable; {fix}"
        )
