"""What the control loop tells the owner of a request: one kind of event for each thing that can happen to it.

A request that is not rejected has this life: `Accepted`, `Admitted`, any number of `Text`, and at last `Ended` or
`Failed`. The last two may come at any moment after the submission, and nothing follows them or `Rejected`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..text.answer import FinishReason


@dataclass(frozen=True, slots=True)
class Accepted:
    """The scheduler has queued the request."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request was refused before it ran: the error is its own."""

    request_id: int
    reason: str
    """What is wrong with it, in words for the client."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request holds a slot for the first time."""

    request_id: int
    cached_tokens: int
    """Prompt tokens whose KV was found in the prefix cache."""
    time: float = field(default_factory=time.monotonic)
    """Seconds on the `time.monotonic` clock."""


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens were sampled. The texts of a request joined are its output, and their tokens its length."""

    request_id: int
    text: str
    """What the tokens make visible; empty while a character or a possible stop string is incomplete."""
    tokens: int
    """How many tokens were sampled; 0 for text that was held back until the request finished."""
    time: float = field(default_factory=time.monotonic)
    """Seconds on the `time.monotonic` clock."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The request is over: finished, or aborted by its owner or a shutdown."""

    request_id: int
    reason: FinishReason
    stop: str | int | None = None
    """The stop string or token that ended it, if one did."""
    time: float = field(default_factory=time.monotonic)
    """Seconds on the `time.monotonic` clock."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was ended through no fault of its own."""

    request_id: int
    reason: str
    """What went wrong, in words for the client."""
    time: float = field(default_factory=time.monotonic)
    """Seconds on the `time.monotonic` clock."""


RequestEvent = Accepted | Rejected | Admitted | Text | Ended | Failed
