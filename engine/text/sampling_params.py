"""How one request chooses its tokens and when it ends. No torch: the server and the control loop use this too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_STOP_STRINGS: Final = 16
_INT64: Final = range(-(2**63), 2**63)


class InvalidSamplingParam(ValueError):
    """A sampling parameter is out of range. `field` is its name."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}={value!r} is invalid: give {expected}")
        self.field = field


def _number(field: str, value: object, allowed: Callable[[float], bool], expected: str) -> None:
    # NaN fails every comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not allowed(value):
        raise InvalidSamplingParam(field, value, expected)


def _integer(field: str, value: object, allowed: range, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise InvalidSamplingParam(field, value, expected)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request chooses its tokens and when it ends. Raises InvalidSamplingParam naming the field.

    The filters apply in this order: temperature, top_k, top_p (over what top_k left), min_p.
    """

    temperature: float = 1.0
    """0 to 2; 0 takes the most likely token (greedy) and ignores the filters."""
    top_p: float = 1.0
    """(0, 1]: keep the smallest set of most likely tokens whose probabilities reach this sum (arXiv:1904.09751)."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all. Tokens as likely as the last one kept are kept too."""
    min_p: float = 0.0
    """[0, 1): drop tokens less likely than this fraction of the most likely one (arXiv:2407.01082)."""
    seed: int | None = None
    """int64; the same seed and prompt give the same tokens. None: from the runner's seed and the request id."""
    max_tokens: int = 16
    """Most tokens to generate, at least 1."""
    stop: tuple[str, ...] = ()
    """Up to 16 non-empty strings that end the output where they appear."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the output besides the model's end-of-sequence tokens."""
    ignore_eos: bool = False
    """Keep generating after an end-of-sequence token (for measurements)."""

    include_stop: bool = False
    """Show the stop string that ended the output."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, lambda x: 0 <= x <= 2, "a number from 0 to 2")
        _number("top_p", self.top_p, lambda x: 0 < x <= 1, "a number above 0 and at most 1")
        _number("min_p", self.min_p, lambda x: 0 <= x < 1, "a number from 0 up to, not including, 1")
        _integer("top_k", self.top_k, range(2**31), "an integer of at least 0 (0 keeps all tokens)")
        _integer("max_tokens", self.max_tokens, range(1, 2**31), "an integer of at least 1")
        if self.seed is not None:
            _integer("seed", self.seed, _INT64, "a 64-bit integer or nothing")
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise InvalidSamplingParam("stop", self.stop, "non-empty strings")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidSamplingParam("stop", self.stop, f"at most {MAX_STOP_STRINGS} strings")
        if not isinstance(self.stop_token_ids, tuple):
            raise InvalidSamplingParam("stop_token_ids", self.stop_token_ids, "a tuple of token ids")
        for token in self.stop_token_ids:
            _integer("stop_token_ids", token, range(2**31), "non-negative token ids")
        for field in ("ignore_eos", "include_stop", "skip_special_tokens"):
            if not isinstance(getattr(self, field), bool):
                raise InvalidSamplingParam(field, getattr(self, field), "true or false")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0


GREEDY: Final = SamplingParams(temperature=0.0)
"""Parameters of a request that takes the most likely token."""


def choice_seed(seed: int, number: int) -> int:
    """The seed of one of several choices: that of the request for the first, others for the rest."""
    return (seed + number * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63
