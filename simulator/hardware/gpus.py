"""Datasheet figures of the GPUs that the cost model knows.

Sources (NVIDIA): "H100 Tensor Core GPU" and "H200 Tensor Core GPU" datasheets, SXM columns; "DGX B200" datasheet
divided by its 8 GPUs. Peaks are dense: datasheets print figures with 2:4 sparsity, which are twice as high. NVLink
bandwidth is printed for both directions together; half of it is what one GPU can send. The same holds for the 128 GB/s
of PCIe Gen5 x16, which links all of them to their hosts.
"""

from dataclasses import dataclass
from typing import Final

from ..errors import ConfigurationError
from .precision import Precision


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Bytes and FLOP are decimal (1 GB = 10^9 bytes)."""

    name: str
    memory_bytes: float
    """HBM capacity, bytes."""
    memory_bandwidth: float
    """HBM peak bandwidth, bytes/s."""
    bf16_flops: float
    """Dense bf16 tensor peak, FLOP/s."""
    fp8_flops: float
    """Dense fp8 tensor peak, FLOP/s."""
    fp4_flops: float | None
    """Dense fp4 tensor peak, FLOP/s; None where the tensor cores have no fp4."""
    nvlink_bandwidth: float
    """NVLink bandwidth in one direction, bytes/s."""
    pcie_bandwidth: float
    """Bandwidth to the host in one direction, bytes/s."""

    def matmul_flops(self, weights: Precision) -> float:
        """Dense peak of a matrix product whose weights are stored as `weights`, FLOP/s.

        Without fp4 tensor cores, fp4 weights are expanded to bf16 on the way in and run at its peak.
        """
        if weights is Precision.FP8:
            return self.fp8_flops
        if weights is Precision.FP4 and self.fp4_flops is not None:
            return self.fp4_flops
        return self.bf16_flops


GPUS: Final = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100", 80e9, 3.35e12, 989.5e12, 1979e12, None, 450e9, 64e9),
        Gpu("h200", 141e9, 4.8e12, 989.5e12, 1979e12, None, 450e9, 64e9),
        Gpu("b200", 180e9, 8.0e12, 2.25e15, 4.5e15, 9.0e15, 900e9, 64e9),
    )
}
"""Known GPUs by name."""


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`. Raises ConfigurationError listing the known ones."""
    gpu = GPUS.get(name.lower())
    if gpu is None:
        raise ConfigurationError(f"gpu is {name!r}; known GPUs: {', '.join(GPUS)}")
    return gpu
