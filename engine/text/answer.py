"""The output of one request as it grows: text, and the decision that it is over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from .detokenizer import Detokenizer
from .sampling_params import SamplingParams
from .stop_strings import StopMatcher

FinishReason = Literal["stop", "length", "abort"]
"""Why a request ended: a stop string or token, `max_tokens`, or its client or a shutdown."""


@dataclass(slots=True)
class Answer:
    """The output of a request between its submission and its end. Knows nothing of the scheduler."""

    params: SamplingParams
    detokenizer: Detokenizer
    eos_token_ids: Collection[int]
    output_tokens: int = 0
    stopped: bool = False
    """A stop token or stop string has been seen."""
    stop_token: int | None = None
    """The token that ended the output, if one of `stop_token_ids` did."""
    stop_matcher: StopMatcher = field(init=False)

    def __post_init__(self) -> None:
        self.stop_matcher = StopMatcher(self.params.stop, include=self.params.include_stop)

    def accept(self, token: int) -> str:
        """Count a sampled token and return the text that it makes visible; sets `stopped` if it ends the request."""
        self.output_tokens += 1
        params = self.params
        if token in params.stop_token_ids:
            self.stopped, self.stop_token = True, token
            return ""
        if token in self.eos_token_ids and not params.ignore_eos:
            self.stopped = True
            return ""
        text = self.stop_matcher.feed(self.detokenizer.add(token))
        self.stopped = self.stop_matcher.matched is not None
        return text

    def finish(self) -> str:
        """The text that was still held back."""
        text = self.stop_matcher.feed(self.detokenizer.finish()) + self.stop_matcher.finish()
        self.stopped = self.stopped or self.stop_matcher.matched is not None
        return text

    @property
    def finish_reason(self) -> FinishReason:
        """Why the output is over, once it is."""
        return "stop" if self.stopped else "length"

    @property
    def stop(self) -> str | int | None:
        """The stop string or token that ended the output, if one did."""
        return self.stop_matcher.matched if self.stop_matcher.matched is not None else self.stop_token
