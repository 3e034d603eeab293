"""The block table of a runner: which KV blocks hold each slot's sequence, on the host and on the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ...scheduler import StepPlan


class BlockTable:
    """One row for each slot, and a last one, of the null block alone, for rows that pad a step."""

    def __init__(self, slots: int, columns: int, null_block: int, device: torch.device) -> None:
        self._host: NDArray[np.int32] = np.zeros((slots + 1, columns), dtype=np.int32)
        self._host[slots] = null_block
        self.on_device = torch.from_numpy(self._host).to(device)
        """int32 [slots + 1, columns]; on the CPU the same memory as the host's."""

    def apply(self, plan: StepPlan) -> None:
        """Apply the plan's deltas, on the device in stream order."""
        count = len(plan.table_slots)
        if not count:
            return
        self._host[plan.table_slots, plan.table_index] = plan.table_blocks
        if self.on_device.device.type == "cpu":
            return
        flat = plan.table_slots.astype(np.int64) * self._host.shape[1] + plan.table_index
        # Pinned, so that the copy does not wait for the device; freed memory is kept by torch until the copy is done.
        staged = torch.empty((2, count), dtype=torch.int64, pin_memory=True)
        staged[0] = torch.from_numpy(flat)
        # Read back, so that an entry that was set twice in one plan has one value whatever the device's order.
        staged[1] = torch.from_numpy(self._host.reshape(-1)[flat])
        index, blocks = staged.to(self.on_device.device, non_blocking=True)
        self.on_device.view(-1).index_copy_(0, index, blocks.int())

    def slots_of(self, slots: NDArray[np.integer], positions: NDArray[np.integer], size: int) -> NDArray[np.int64]:
        """Where the tokens at `positions` of these slots are kept, both [tokens]: block * size + offset."""
        blocks = self._host[slots, positions // size].astype(np.int64)
        found: NDArray[np.int64] = blocks * size + positions % size
        return found
