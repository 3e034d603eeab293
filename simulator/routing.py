"""Which replica serves a call. A router is chosen by name, or made by a class or function of your own.

A router sees views of the replicas and answers with the index of one that is available. Ties are broken by how often
a replica was chosen and then by its index, so no replica is preferred when all are equally good and the same run gives
the same choices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError
from .workload.workload import Call


@dataclass(slots=True)
class ReplicaView:
    """What a router sees of a replica."""

    index: int
    block_size: int
    available: bool = True
    """False while it is down or drained: it must not be chosen."""
    live_sessions: int = 0
    """Sessions whose last call went here and that have calls to come or running."""
    live_calls: int = 0
    """Calls sent here that have not ended."""
    live_tokens: int = 0
    """Their prompt and output tokens."""
    uncached_tokens: int = 0
    """Of these, prompt tokens that were not in the prefix cache when the call was sent."""
    chosen: int = 0
    """How often it was chosen so far."""
    sessions: int = 0
    """How many sessions it was the first to serve."""
    stored_pages: Callable[[NDArray[np.uint64]], int] = field(default=len)
    """How many of these pages, from the first on, its KV events say are on the device; see `needs_kv_events`."""

    def cached_tokens(self, call: Call) -> int:
        """Tokens of the call's prompt that this replica's KV events say it has."""
        pages = call.page_hashes[: (call.prompt_tokens - 1) // self.block_size]
        return self.stored_pages(pages) * self.block_size


class Router(Protocol):
    """Decides where a call goes. One object serves one run."""

    needs_kv_events: bool
    """Whether `ReplicaView.cached_tokens` is asked; the schedulers then report what they store and remove."""

    def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
        """The index of an available replica. At least one is; `replicas` has all of them by index."""
        ...


RouterChoice = str | Callable[[], Router]
"""A router by name, or what makes one: a class, or a function without parameters."""


def _available(replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    return [replica for replica in replicas if replica.available]


class SessionAffinity:
    """A session stays where it began: on the replica with the fewest live sessions then, if possible."""

    needs_kv_events = False

    def __init__(self) -> None:
        self._home: dict[int, int] = {}

    def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
        """The session's replica, or a new one if it has none or that is not available."""
        home = self._home.get(call.session)
        if home is None or not replicas[home].available:
            best = min(_available(replicas), key=lambda r: (r.live_sessions, r.live_calls, r.sessions, r.index))
            self._home[call.session] = home = best.index
        return home


class RoundRobin:
    """Calls go to the available replicas in turn, whatever session they belong to."""

    needs_kv_events = False

    def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
        """The one that was chosen least often."""
        return min(_available(replicas), key=lambda r: (r.chosen, r.index)).index


class LeastLoad:
    """Calls go where the fewest tokens are live, whatever session they belong to."""

    needs_kv_events = False

    def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
        """The one with the fewest live tokens."""
        return min(_available(replicas), key=lambda r: (r.live_tokens, r.live_calls, r.chosen, r.index)).index


class PrefixAware:
    """Calls go where the fewest prompt tokens are left to compute: the call's own and those of live calls there."""

    needs_kv_events = True

    def choose(self, call: Call, replicas: Sequence[ReplicaView], /) -> int:
        """The one where its prompt would be there first."""

        def order(replica: ReplicaView) -> tuple[int, int, int, int]:
            own = call.prompt_tokens - replica.cached_tokens(call)
            return own + replica.uncached_tokens, replica.live_tokens, replica.chosen, replica.index

        return min(_available(replicas), key=order).index


ROUTERS: Final[dict[str, Callable[[], Router]]] = {
    "session": SessionAffinity,
    "round-robin": RoundRobin,
    "least-load": LeastLoad,
    "prefix": PrefixAware,
}
"""Routers by name."""

DESCRIPTIONS: Final = {
    "session": "a session stays on one replica: where the fewest sessions were live when it began",
    "round-robin": "calls go to the replicas in turn",
    "least-load": "calls go where the fewest tokens are live",
    "prefix": "calls go where the fewest prompt tokens are left to compute, by the replicas' KV events",
}
"""What reports say of them."""


def make_router(choice: RouterChoice) -> Router:
    """A router for one run. Raises ConfigurationError naming the known ones if there is none of this name."""
    if not isinstance(choice, str):
        if not callable(choice):
            raise ConfigurationError(f"router is {choice!r}; give a name ({', '.join(ROUTERS)}) or a class")
        return choice()
    made = ROUTERS.get(choice)
    if made is None:
        raise ConfigurationError(f"router is {choice!r}; known routers: {', '.join(ROUTERS)}")
    return made()


def router_name(choice: RouterChoice) -> str:
    """What reports call it."""
    return choice if isinstance(choice, str) else getattr(choice, "__name__", repr(choice))
