"""All ranks of a world as threads of this process: to run any mapping without processes or devices.

Slow, and exact: sums are in the order of ranks. Serving uses collectives.py.
"""

import threading
from collections.abc import Callable, Sequence

import torch


class World:
    """A meeting place for each group of ranks."""

    def __init__(self, size: int, timeout_s: float = 60.0) -> None:
        """`timeout_s`: after which a rank that waits for another gives up, with BrokenBarrierError."""
        self._timeout_s = timeout_s
        self.size = size
        self._barriers: dict[tuple[int, ...], threading.Barrier] = {}
        self._posts: dict[tuple[tuple[int, ...], int], torch.Tensor] = {}
        self._lock = threading.Lock()

    def exchange(self, rank: int, members: tuple[int, ...], x: torch.Tensor) -> list[torch.Tensor]:
        """What every member brought."""
        with self._lock:
            barrier = self._barriers.setdefault(members, threading.Barrier(len(members)))
        self._posts[members, rank] = x
        barrier.wait(timeout=self._timeout_s)
        brought = [self._posts[members, member] for member in members]
        barrier.wait(timeout=self._timeout_s)
        return brought

    def run(self, function: Callable[["Links"], torch.Tensor]) -> list[torch.Tensor]:
        """What `function` returns on each rank."""
        results: list[torch.Tensor | BaseException] = [RuntimeError("not run")] * self.size

        def work(rank: int) -> None:
            try:
                results[rank] = function(Links(self, rank))
            except BaseException as error:
                results[rank] = error
                for barrier in list(self._barriers.values()):
                    barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            raise next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), failed[0])
        return [result for result in results if isinstance(result, torch.Tensor)]


class Links:
    """The collectives of one rank."""

    def __init__(self, world: World, rank: int) -> None:
        self.world = world
        self.rank = rank

    def all_reduce(self, x: torch.Tensor, members: tuple[int, ...]) -> torch.Tensor:
        """See `Communicator`."""
        brought = self.world.exchange(self.rank, members, x)
        return torch.stack(brought).sum(0)

    def reduce_scatter(self, x: torch.Tensor, members: tuple[int, ...], counts: Sequence[int]) -> torch.Tensor:
        """See `Communicator`."""
        assert len(x) == sum(counts)
        place = members.index(self.rank)
        return self.all_reduce(x, members)[sum(counts[:place]) : sum(counts[: place + 1])]

    def all_gather(self, x: torch.Tensor, members: tuple[int, ...], counts: Sequence[int]) -> torch.Tensor:
        """See `Communicator`."""
        brought = self.world.exchange(self.rank, members, x)
        assert [len(part) for part in brought] == list(counts)
        return torch.cat(brought)

    def gather_columns(self, x: torch.Tensor, members: tuple[int, ...], widths: Sequence[int]) -> torch.Tensor:
        """See `Communicator`."""
        brought = self.world.exchange(self.rank, members, x)
        assert [part.shape[1] for part in brought] == list(widths)
        return torch.cat(brought, 1)
