"""What a step gives back to the control loop. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave, once the device has run it."""

    tokens: NDArray[np.int32]
    """[sampling rows] in row order."""
    healthy: NDArray[np.bool_]
    """[sampling rows] False where the logits were NaN or infinite: the row's token means nothing."""
