"""What a step gives back to the control loop. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave, once the device has run it."""

    tokens: NDArray[np.int32]
    """[sum of counts] what was sampled and accepted, row after row."""
    counts: NDArray[np.int32]
    """[sampling rows] how many tokens each row has: 1, and as many more as its first drafts that were right."""
    healthy: NDArray[np.bool_]
    """[sampling rows] False where logits were NaN or infinite: the row's tokens mean nothing."""


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Where the results of a plan's sampling rows are, and the drafts that they are held to."""

    first: NDArray[np.int64]
    """[sampling rows] the row's first result; the others follow it."""
    drafts: list[NDArray[np.int32]] | None
    """[sampling rows] drafts of each row, one less than its results; None if no row has any."""

    def accept(self, tokens: NDArray[np.int32], healthy: NDArray[np.bool_]) -> StepResult:
        """What of all results, [results], stands: the first token of each row, and the next while its draft was right.

        The token at a place is sampled whatever the draft there was, so that drafts change no token.
        """
        if self.drafts is None:
            return StepResult(tokens[self.first], np.ones(len(self.first), dtype=np.int32), healthy[self.first])
        kept, counts, sound = [], [], []
        for first, drafts in zip(self.first.tolist(), self.drafts, strict=True):
            wrong = np.flatnonzero(tokens[first : first + len(drafts)] != drafts)
            count = 1 + (int(wrong[0]) if len(wrong) else len(drafts))
            kept.append(tokens[first : first + count])
            counts.append(count)
            sound.append(bool(healthy[first : first + count].all()))
        return StepResult(np.concatenate(kept), np.array(counts, dtype=np.int32), np.array(sound, dtype=np.bool_))
