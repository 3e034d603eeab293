"""Typed stubs of the compiled replay of traces, which is generated from the specification."""

from typing import Final

SPEC_HASH: Final[str]
"""SHA-256 (hex) of the specification that this module was generated from."""

UNCHECKED_GUARDS: Final[tuple[str, ...]]
"""Guards (`transition:guard`) that a replay cannot evaluate in constant time."""

RECOUNTED: Final[tuple[str, ...]]
"""Counters that `Replay.wrong_count` recounts."""

class Stop:
    """Why and where a replay stopped."""

    @property
    def reason(self) -> str:
        """Why: "limit" (as many events as asked for), "end" (no more records), "close" (the closing record), "guard" (a
        guard is false), "lost" (events are missing here) or "corrupt" (no record of this format and specification)."""
    @property
    def record(self) -> int:
        """Number of the next record in the buffer; it has not been taken."""
    @property
    def event(self) -> int:
        """Number of the next event since the start of the trace, from 0."""
    @property
    def transition(self) -> str:
        """Its name, if the record names one. If the reason is "limit": of the last event taken."""
    @property
    def arguments(self) -> list[int]:
        """Of the same event."""
    @property
    def detail(self) -> str:
        """The guard as `transition:guard`, the number of events lost, or what is wrong with the record."""

class Replay:
    """The specification's state, moved along by the records of a trace.

    `constants`: their values by name; `sorts`: individuals by name, None where new ones come up in a trace.
    """

    def __init__(self, constants: dict[str, int], sorts: dict[str, int | None]) -> None:
        """Raises IndexError if a constant or sort is missing."""
    def run(self, records: bytes | memoryview, limit: int, changes: bool = False) -> Stop:
        """Take up to `limit` events of the records, from where the last call stopped."""
    def take_changes(self) -> list[tuple[str, tuple[int, ...], int, int]]:
        """(variable, index, before, after) of every change since the last call, if `run` was told to collect them."""
    @property
    def events(self) -> int:
        """Events taken."""
    def values(self) -> dict[tuple[str, tuple[int, ...]], int]:
        """(variable, index): value, where that is not 0. States are numbered in the order of their declaration."""
    def digests(self) -> dict[str, int]:
        """Variable: digest of its values, as in the footer of a trace file; without those that are 0 everywhere."""
    def wrong_count(self) -> str:
        """Recount counters from what they count; the name of the first that is wrong, or empty."""
