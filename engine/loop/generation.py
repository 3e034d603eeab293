"""The requests of one call and the text that they have generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from ..text.answer import FinishReason
from .events import Accepted, Admitted, Ended, Failed, Rejected, RequestEvent, Text


class RequestRejected(ValueError):
    """The scheduler can never run the request; the message says why."""


class GenerationFailed(RuntimeError):
    """A request ended before it was finished, through no fault of its own; the message is for the client."""

    def __init__(self, message: str, shutdown: bool = False) -> None:
        super().__init__(message)
        self.shutdown = shutdown
        """True if the request was aborted because the server shuts down."""


@dataclass(slots=True)
class Choice:
    """What has been generated for one prompt so far."""

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop: str | int | None = None
    """The stop string or token that ended it, if one did."""


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one choice; `finish_reason` is set in the choice's last one."""

    index: int
    text: str
    finish_reason: FinishReason | None


class Generation:
    """One choice for each prompt of a call. Whoever holds it calls `abandon` when done with it, finished or not.

    Args:
        prompt_tokens: length of each prompt.
        abort: called with `request_ids` by `abandon`; requests that are over are left alone.
    """

    def __init__(self, prompt_tokens: Sequence[int], abort: Callable[[Sequence[int]], None]) -> None:
        self.choices = [Choice(tokens) for tokens in prompt_tokens]
        self.request_ids: list[int] = []
        self._abort = abort
        self._arrived: list[tuple[int, RequestEvent]] = []
        self._accepted = 0
        self._news = asyncio.Event()

    def put(self, index: int, event: RequestEvent) -> None:
        """Called by the engine with news of choice `index`."""
        self._accepted += isinstance(event, Accepted)
        self._arrived.append((index, event))
        self._news.set()

    async def accepted(self) -> None:
        """Wait until the scheduler has queued all requests. Raises RequestRejected or GenerationFailed."""
        expected = len(self.choices)
        while True:
            await self._news.wait()
            for _, event in self._arrived:
                _check(event)
            if self._accepted == expected:
                return
            self._news.clear()

    async def deltas(self, heartbeat: float | None = None) -> AsyncIterator[list[Delta]]:
        """New text as it comes, until all choices are finished. Raises RequestRejected or GenerationFailed.

        With `heartbeat`, an empty list is given after so many seconds without text.
        """
        unfinished = len(self.choices)
        while unfinished:
            try:
                async with asyncio.timeout(heartbeat):
                    await self._news.wait()
            except TimeoutError:
                yield []
                continue
            self._news.clear()
            arrived, self._arrived = self._arrived, []
            deltas = self._merge(arrived)
            unfinished -= sum(delta.finish_reason is not None for delta in deltas)
            if deltas:
                yield deltas

    async def texts(self) -> list[str]:
        """The whole text of each choice. Raises RequestRejected or GenerationFailed."""
        parts: list[list[str]] = [[] for _ in self.choices]
        async for deltas in self.deltas():
            for delta in deltas:
                parts[delta.index].append(delta.text)
        return ["".join(pieces) for pieces in parts]

    def _merge(self, arrived: list[tuple[int, RequestEvent]]) -> list[Delta]:
        texts: dict[int, list[str]] = {}
        for index, event in arrived:
            choice = self.choices[index]
            match event:
                case Admitted(cached_tokens=cached):
                    choice.cached_tokens = cached
                case Text(text=text, tokens=tokens):
                    choice.completion_tokens += tokens
                    if text:
                        texts.setdefault(index, []).append(text)
                case Ended(reason=reason, stop=stop) if reason != "abort":
                    choice.finish_reason, choice.stop = reason, stop
                    texts.setdefault(index, [])
                case _:
                    _check(event)
        return [Delta(index, "".join(parts), self.choices[index].finish_reason) for index, parts in texts.items()]

    def abandon(self) -> None:
        """Abort what is not finished; nobody will look at it any more."""
        self._abort(self.request_ids)


def _check(event: RequestEvent) -> None:
    """Raise what ended the request early, if anything did."""
    match event:
        case Rejected(reason=reason):
            raise RequestRejected(reason)
        case Failed(reason=reason):
            raise GenerationFailed(reason)
        case Ended(reason="abort"):
            raise GenerationFailed("the server is shutting down", shutdown=True)
