"""The link between the GPUs of a replica and their host: copies of KV blocks that run beside the steps."""

from collections.abc import Callable

import numpy as np
import simpy
from numpy.typing import NDArray

from ...scheduler import CopyBatch, CopyKind


class HostLink:
    """Two directions, each working through its copies in order; they do not slow each other or the steps down.

    Every rank copies its own share of a block at the same time, so a token takes as long as on one GPU.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        tokens_per_s: float,
        on_done: Callable[[NDArray[np.int64], int], None],
    ) -> None:
        """on_done: called with (copy ids, now) when copies of one batch and direction have ended."""
        self._environment = environment
        self._ns_per_token = 1e9 / tokens_per_s
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
            duration = int(int(batch.num_tokens[chosen].sum()) * self._ns_per_token)
            end = max(now, self._free_ns[kind]) + duration
            self._free_ns[kind] = end
            self.busy_ns[kind] += duration
            ids = batch.ids[chosen]
            self._environment.timeout(end - now).callbacks.append(self._reporting(ids, end))

    def _reporting(self, ids: NDArray[np.int64], end: int) -> Callable[[simpy.Event], None]:
        return lambda _: self._on_done(ids, end)
