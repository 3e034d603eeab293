"""Simulated time, and in which order things of one instant happen.

At one instant: steps land and copies end, replica by replica; then replicas fail and come back; then clients act, in
the order in which they asked to; then replicas plan, one after the other. So a step that is planned at some moment
knows everything of that moment, and the order never depends on when something was put into a queue.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import simpy

FOREVER: Final = 2**62
"""Later than everything."""


class Clock:
    """A simpy environment whose events of one instant come in the order above."""

    def __init__(self, replicas: int) -> None:
        self.environment = simpy.Environment()
        self._replicas = replicas

    def landing(self, replica: int) -> int:
        """The rank of a step that lands on `replica`."""
        return 2 * replica

    def copying(self, replica: int) -> int:
        """The rank of copies that end on `replica`."""
        return 2 * replica + 1

    @property
    def outage(self) -> int:
        """The rank of a replica that fails or comes back."""
        return 2 * self._replicas

    @property
    def client(self) -> int:
        """The rank of clients."""
        return 2 * self._replicas + 1

    def planning(self, replica: int) -> int:
        """The rank of planning on `replica`."""
        return 2 * self._replicas + 2 + replica

    def at(self, time: int, rank: int, act: Callable[[], None]) -> None:
        """Call `act` at `time`. Events of one time and rank come in the order in which they were asked for."""
        environment = self.environment
        event = simpy.Event(environment)
        event._ok, event._value = True, None  # what simpy's own Timeout does
        event.callbacks.append(lambda _: act())
        environment.schedule(event, cast("Any", rank), time - environment.now)  # any number orders

    def next_time(self) -> int:
        """When the next event is, FOREVER if there is none."""
        time = self.environment.peek()
        return FOREVER if time == float("inf") else int(time)
