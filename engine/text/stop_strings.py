"""Finds stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Cuts a text before the stop string that is completed first.

    However the text is cut into pieces, the pieces returned joined are the text before the match: of the stop string
    whose last character comes first, and of the longest one if several end there. Text that may still become part of a
    stop string is held back.

    Args:
        stops: the stop strings, none of them empty.
        include: whether the match itself is shown, at the end.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        if not all(stops):
            raise ValueError("stop: a stop string is empty; leave it out")
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found."""

    def feed(self, piece: str) -> str:
        """Text that may be shown after `piece` has arrived; once `matched` is set, everything further is dropped."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return text[: start + len(self.matched)] if self._include else text[:start]
        keep = max(self._tail_length(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back, when no more will arrive."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _tail_length(text: str, stop: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of `stop`."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0
