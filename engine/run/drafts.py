"""Guesses at what a request says next, from what has been said before: no model, and no cost where nothing repeats."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

LONGEST_MATCH: Final = 32
"""Tokens of the end of a text that are compared with its past."""

MOST_DRAFTING_ROWS: Final = 8
"""Requests that may run while there are drafts: with more, the device has no time for tokens that may be wrong."""


class Drafter(Protocol):
    """Proposes tokens. The tokens of a request do not depend on what it proposes, only how fast they come."""

    def propose(self, text: NDArray[np.int32], most: int) -> NDArray[np.int32]:
        """At most `most` tokens that may follow `text` (prompt and output so far); none if there is no idea."""
        ...


class SuffixDrafter:
    """Copies what followed the last occurrence of the text's longest repeated suffix.

    Prompt lookup with n-grams of any length from `shortest` on: agents repeat files and commands that they have read.
    """

    def __init__(self, shortest: int = 2) -> None:
        """`shortest`: tokens that must have occurred before. Raises ValueError if it is below 1."""
        if shortest < 1:
            raise ValueError(f"shortest={shortest} is invalid: give at least 1")
        self._shortest = shortest

    def propose(self, text: NDArray[np.int32], most: int) -> NDArray[np.int32]:
        """See `Drafter`. A few passes over the text, none longer than those before."""
        ends = np.flatnonzero(text[:-1] == text[-1])
        found = None
        for length in range(1, min(LONGEST_MATCH, len(text) - 1) + 1):
            if length >= self._shortest and len(ends):
                found = int(ends[-1])
            ends = ends[ends >= length]
            ends = ends[text[ends - length] == text[-1 - length]] if length < len(text) - 1 else ends[:0]
            if not len(ends):
                break
        return text[:0] if found is None else text[found + 1 : found + 1 + most]


class History:
    """A text that grows by a few tokens at a time."""

    def __init__(self, prompt: NDArray[np.int32], room: int) -> None:
        """`room`: tokens that may follow the prompt."""
        self._tokens = np.empty(len(prompt) + room, dtype=np.int32)
        self._tokens[: len(prompt)] = prompt
        self._length = len(prompt)

    def add(self, token: int) -> None:
        """The next token."""
        self._tokens[self._length] = token
        self._length += 1

    @property
    def text(self) -> NDArray[np.int32]:
        """All tokens so far; a view, until the next one is added."""
        return self._tokens[: self._length]
