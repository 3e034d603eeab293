"""What a reply consists of, as it streams."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A tool is called. Its arguments follow, until the next `CallStarted` or the end."""

    index: int
    """0, 1, ... within the reply."""
    name: str
    id: str | None = None
    """As the model wrote it, if its format has ids."""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of a call's arguments. The parts joined are a JSON object, if the model wrote one and finished."""

    index: int
    text: str


ReplyEvent = Words | Thinking | CallStarted | CallArguments
