"""The collectives of a plan, by torch.distributed: NCCL between GPUs, gloo between CPUs.

Shares may differ by a row, and an idle rank has none. Backends want equal parts, so unequal ones are padded to the
largest; under a CUDA graph shares are equal and nothing is padded.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import torch
import torch.distributed as dist

from ..agreement import Uniform, agreed
from ..plan import COLLECTIVES, Plan

T = TypeVar("T")

# torch 2.13 gave these two other names.
_ALL_GATHER: Final[Callable[..., object]] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_REDUCE_SCATTER: Final[Callable[..., object]] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


class Communicator(Protocol):
    """What a plan asks of its links. All members of a group make the same calls in the same order."""

    def all_reduce(self, x: torch.Tensor, members: tuple[int, ...]) -> torch.Tensor:
        """The sum of the members' `x` [rows, columns], all of one shape; may overwrite `x`."""
        ...

    def reduce_scatter(self, x: torch.Tensor, members: tuple[int, ...], counts: Sequence[int]) -> torch.Tensor:
        """This rank's rows of the sum of `x` [sum(counts), columns]; `counts`: rows of each member, in order."""
        ...

    def all_gather(self, x: torch.Tensor, members: tuple[int, ...], counts: Sequence[int]) -> torch.Tensor:
        """The members' rows one after the other, [sum(counts), columns]; `x` [own count, columns]."""
        ...

    def gather_columns(self, x: torch.Tensor, members: tuple[int, ...], widths: Sequence[int]) -> torch.Tensor:
        """The members' columns side by side, [rows, sum(widths)]; `x` [rows, own width]."""
        ...


class DistributedCommunicator:
    """Collectives over the default process group of this process, which must be initialised."""

    def __init__(self, plan: Plan, *, timeout: timedelta = timedelta(seconds=60)) -> None:
        """Makes a process group for each group of ranks that `plan` speaks to; all ranks call this with equal plans.

        `timeout`: after which a collective that a rank does not come to is an error. Raises ValueError if the world of
        the process group is not that of the plan.
        """
        if dist.get_world_size() != plan.mesh.world:
            raise ValueError(
                f"the plan is for {plan.mesh.world} ranks, but torch.distributed has {dist.get_world_size()}"
            )
        self.rank = dist.get_rank()
        self._scatters = dist.get_backend() != "gloo"
        self._groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        # Every rank makes every group, in one order.
        for partition in dict.fromkeys(call.groups for call in plan.calls if call.act in COLLECTIVES):
            for members in partition or ():
                if len(members) > 1 and members not in self._groups:
                    self._groups[members] = dist.new_group(list(members), timeout=timeout)

    def all_reduce(self, x: torch.Tensor, members: tuple[int, ...]) -> torch.Tensor:
        """See `Communicator`."""
        x = x.contiguous()
        dist.all_reduce(x, group=self._groups[members])
        return x

    def reduce_scatter(self, x: torch.Tensor, members: tuple[int, ...], counts: Sequence[int]) -> torch.Tensor:
        """See `Communicator`."""
        place = members.index(self.rank)
        if not self._scatters:
            start = sum(counts[:place])
            return self.all_reduce(x, members)[start : start + counts[place]]
        most = max(counts)
        if min(counts) == most:
            padded = x.contiguous()
        else:
            padded = x.new_zeros(len(members) * most, x.shape[1])
            for i, rows in enumerate(x.split(list(counts))):
                padded[i * most : i * most + len(rows)] = rows
        out = x.new_empty(most, x.shape[1])
        if most:
            _REDUCE_SCATTER(out, padded, group=self._groups[members])
        return out[: counts[place]]

    def all_gather(self, x: torch.Tensor, members: tuple[int, ...], counts: Sequence[int]) -> torch.Tensor:
        """See `Communicator`."""
        most = max(counts)
        if min(counts) == most:
            padded = x.contiguous()
        else:
            padded = x.new_zeros(most, x.shape[1])
            padded[: len(x)] = x
        out = x.new_empty(len(members) * most, x.shape[1])
        if most:
            _ALL_GATHER(out, padded, group=self._groups[members])
        if min(counts) == most:
            return out
        return torch.cat([out[i * most : i * most + count] for i, count in enumerate(counts)])

    def gather_columns(self, x: torch.Tensor, members: tuple[int, ...], widths: Sequence[int]) -> torch.Tensor:
        """See `Communicator`."""
        return self.all_gather(x.t(), members, widths).t()


def agree(name: str, value: T) -> Uniform[T]:
    """The value that all ranks of the world have; every rank calls this. Raises Disagreement on every rank if not."""
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return agreed(name, values)  # type: ignore[arg-type]
