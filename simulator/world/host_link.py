"""The link between the GPUs of a replica and their host: copies of KV blocks that run beside the steps."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...scheduler import CopyBatch, CopyKind


class HostLink:
    """Two directions, each working through its copies in order; they do not slow each other or the steps down.

    Every rank copies its own share of a block at the same time, so a token takes as long as on one GPU.
    """

    def __init__(
        self,
        tokens_per_s: float,
        at: Callable[[int, Callable[[], None]], None],
        on_done: Callable[[NDArray[np.int64], int], None],
    ) -> None:
        """at: calls something at a time. on_done: called with (copy ids, now) when a batch has ended in a direction."""
        self._ns_per_token = 1e9 / tokens_per_s
        self._at = at
        self._on_done = on_done
        self._free_ns = {CopyKind.SPILL: 0, CopyKind.FETCH: 0}
        self.busy_ns = {CopyKind.SPILL: 0, CopyKind.FETCH: 0}
        """Time spent copying so far, by direction."""

    def start(self, batch: CopyBatch, now: int) -> None:
        """Queue the copies of a batch behind those that are under way."""
        for kind in self._free_ns:
            chosen = batch.kinds == kind
            if not chosen.any():
                continue
            duration = max(int(int(batch.num_tokens[chosen].sum()) * self._ns_per_token), 1)
            end = max(now, self._free_ns[kind]) + duration
            self._free_ns[kind] = end
            self.busy_ns[kind] += duration
            self._report(batch.ids[chosen], end)

    def _report(self, ids: NDArray[np.int64], end: int) -> None:
        self._at(end, lambda: self._on_done(ids, end))
