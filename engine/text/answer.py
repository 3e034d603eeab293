"""What the control loop knows about one request, and what it reports to the request's owner."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..run.sampling import SamplingParams
from .detokenizer import CONTEXT_TOKENS, IncrementalDetokenizer
from .stop_strings import StopMatcher

FinishReason = Literal["stop", "length", "abort", "error"]
"""Why a request ended: a stop string or token, `max_tokens`, its client or a shutdown, or a failure."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What happened to one request since its last output. Text and counts add up over the outputs of a request."""

    request_id: int
    time: float = field(default_factory=time.monotonic)
    """When it happened, in seconds on the `time.monotonic` clock."""
    accepted: bool = False
    """True in the first output of a request that the scheduler has queued."""
    cached_tokens: int | None = None
    """Set when the request is admitted: prompt tokens whose KV was found in the prefix cache."""
    text: str = ""
    new_tokens: int = 0
    finish_reason: FinishReason | None = None
    """Set in the last output."""
    error: str | None = None
    """What went wrong, in words for the client."""
    rejected: bool = False
    """True if the request was refused before it ran: the error is the request's own."""


@dataclass(slots=True)
class RequestState:
    """A request between submission and its last output. Used by the control loop's thread only."""

    request_id: int
    prompt: NDArray[np.int32]
    """[prompt tokens]"""
    params: SamplingParams
    decode: Callable[[Sequence[int]], str]
    eos_token_ids: Collection[int]
    output_tokens: int = 0
    admitted: bool = False
    stopped: bool = False
    """A stop token or stop string has been seen."""
    detokenizer: IncrementalDetokenizer = field(init=False)
    stop_matcher: StopMatcher = field(init=False)

    def __post_init__(self) -> None:
        self.detokenizer = IncrementalDetokenizer(self.decode, self.prompt[-CONTEXT_TOKENS:].tolist())
        self.stop_matcher = StopMatcher(self.params.stop)

    def accept(self, token: int) -> str:
        """Count a sampled token and return the text that it makes visible; sets `stopped` if it ends the request."""
        self.output_tokens += 1
        params = self.params
        if token in params.stop_token_ids or (token in self.eos_token_ids and not params.ignore_eos):
            self.stopped = True
            return ""
        text = self.stop_matcher.feed(self.detokenizer.add(token))
        self.stopped = self.stop_matcher.matched is not None
        return text

    def finish(self) -> tuple[str, FinishReason]:
        """The text that was still held back, and why the request ended."""
        text = self.stop_matcher.feed(self.detokenizer.finish()) + self.stop_matcher.finish()
        stopped = self.stopped or self.stop_matcher.matched is not None
        return text, "stop" if stopped else "length"
