"""What a collective costs on one node's links: the figures by which the compiler chooses.

The simulator's cost model has the same constants; a test holds both to each other. The latencies of reduce-scatter and
all-gather were measured inside CUDA graphs on 2 and 4 H200 (docs/spmd.md).
"""

from dataclasses import dataclass
from typing import Final

VALUE_BYTES: Final = 2
"""Bytes of an activation value: bfloat16."""


@dataclass(frozen=True, slots=True)
class Links:
    """One device and its links to the others of its node. Bandwidths in bytes/s and one direction, times in seconds."""

    bandwidth: float = 450e9 * 0.75
    """What a large collective reaches."""
    all_reduce_latency: float = 10e-6
    """A small all-reduce."""
    shift_latency: float = 9e-6
    """A small all-gather or reduce-scatter."""
    memory_bandwidth: float = 3.35e12 * 0.85
    matmul_flops: float = 989.5e12 * 0.70

    def all_reduce(self, ranks: int, nbytes: float) -> float:
        """Seconds to sum tensors of `nbytes` over a ring of `ranks`."""
        return self.all_reduce_latency + 2 * moved(ranks, nbytes) / self.bandwidth if ranks > 1 else 0.0

    def shift(self, ranks: int, nbytes: float) -> float:
        """Seconds of an all-gather to, or a reduce-scatter of, tensors of `nbytes`."""
        return self.shift_latency + moved(ranks, nbytes) / self.bandwidth if ranks > 1 else 0.0

    def norm(self, nbytes: float) -> float:
        """Seconds to add tensors of `nbytes` to the stream and to norm the sum: two are read, two written."""
        return 4 * nbytes / self.memory_bandwidth

    def matmul(self, rows: float, values: int) -> float:
        """Seconds to multiply `rows` rows with `values` weights."""
        return max(2 * rows * values / self.matmul_flops, values * VALUE_BYTES / self.memory_bandwidth)


def moved(ranks: int, nbytes: float) -> float:
    """Bytes that a rank sends in an all-gather to `nbytes`, or in a reduce-scatter of them (an all-reduce: twice)."""
    return nbytes * (ranks - 1) / ranks
