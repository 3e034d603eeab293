"""KV blocks in host memory: executes the scheduler's copies beside the steps."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from ...scheduler import CopyBatch, CopyKind
from .kv_cache import KVCache


class HostPages:
    """Host memory for `num_pages` KV blocks, pinned if the cache is on a GPU. `copy` is called on one thread."""

    def __init__(self, cache: KVCache, num_pages: int) -> None:
        """Raises ValueError if `num_pages` is below 1."""
        if num_pages < 1:
            raise ValueError(f"num_pages={num_pages} is invalid: give at least 1")
        self._cache = cache
        self._on_gpu = cache.device.type == "cuda"
        self._num_pages = num_pages
        self.pages = [
            torch.empty((num_pages, len(pool), *pool.shape[2:]), dtype=pool.dtype, pin_memory=self._on_gpu)
            for pool in cache.pools
        ]
        """For each pool of the cache [num_pages, tensors, block_size, *shape]."""
        self._stream = torch.cuda.Stream(cache.device) if self._on_gpu else None

    @torch.inference_mode()
    def copy(self, batch: CopyBatch) -> None:
        """Execute all copies of a batch and return when they have ended. Steps that run meanwhile use other blocks."""
        if self._stream is None:
            self._copy(batch)
            return
        with torch.cuda.stream(self._stream):
            self._copy(batch)
        self._stream.synchronize()

    def _copy(self, batch: CopyBatch) -> None:
        spills, fetches = batch.kinds == CopyKind.SPILL, batch.kinds == CopyKind.FETCH
        if spills.any():
            self._spill(batch.blocks[spills], batch.host_pages[spills])
        if fetches.any():
            self._fetch(batch.blocks[fetches], batch.host_pages[fetches])

    def _spill(self, blocks: NDArray[np.int32], pages: NDArray[np.int32]) -> None:
        index = self._index(blocks)
        for pool, host in zip(self._cache.pools, self.pages, strict=True):
            gathered = pool.index_select(1, index).movedim(1, 0).contiguous()
            for page, block in zip(pages.tolist(), gathered, strict=True):
                host[page].copy_(block, non_blocking=True)

    def _fetch(self, blocks: NDArray[np.int32], pages: NDArray[np.int32]) -> None:
        index = self._index(blocks)
        for pool, host in zip(self._cache.pools, self.pages, strict=True):
            arrived = torch.empty((len(pages), *host.shape[1:]), dtype=pool.dtype, device=pool.device)
            for page, block in zip(pages.tolist(), arrived, strict=True):
                block.copy_(host[page], non_blocking=True)
            pool.index_copy_(1, index, arrived.movedim(0, 1))

    def _index(self, blocks: NDArray[np.int32]) -> torch.Tensor:
        return torch.from_numpy(blocks.astype(np.int64)).to(self._cache.device)

    def tokens_per_s(self) -> float:
        """KV tokens copied each second in the slower direction, measured on blocks that nobody uses yet."""
        count = min(self._num_pages, self._cache.num_blocks, 64)
        each = np.arange(count, dtype=np.int32)
        seconds = []
        for _ in range(2):  # the first time includes first touches of memory
            for direction in (self._spill, self._fetch):
                start = time.perf_counter()
                direction(each, each)
                if self._on_gpu:
                    torch.cuda.synchronize(self._cache.device)
                seconds.append(time.perf_counter() - start)
        return float(count * self._cache.block_size / max(seconds[2:]))
