"""The mailbox between the engine and an HTTP call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tokenspeed.engine.loop.events import Accepted, Admitted, Ended, Failed, Rejected, RequestEvent, Text
from tokenspeed.engine.loop.generation import Delta, Generation, GenerationFailed, RequestRejected


def no_abort(request_ids: Sequence[int]) -> None:
    """Nothing to abort here."""


async def collect(generation: Generation) -> list[list[Delta]]:
    return [deltas async for deltas in generation.deltas()]


def test_what_arrived_since_the_last_look_comes_in_one_piece() -> None:
    async def scenario() -> list[list[Delta]]:
        generation = Generation([3, 4], no_abort)
        for index in (0, 1):
            generation.put(index, Accepted(index))
            generation.put(index, Admitted(index, 2))
        for text in ("a", "b", "c"):
            generation.put(0, Text(0, text, 1))
        generation.put(1, Text(1, "x", 1))
        generation.put(1, Ended(1, "stop"))
        reader = asyncio.ensure_future(collect(generation))
        await asyncio.sleep(0)
        for text in ("d", "e"):
            generation.put(0, Text(0, text, 1))
        generation.put(0, Text(0, "f", 1))
        generation.put(0, Ended(0, "length"))
        result = await reader
        assert [choice.completion_tokens for choice in generation.choices] == [6, 1]
        assert [choice.cached_tokens for choice in generation.choices] == [2, 2]
        return result

    first, second = asyncio.run(scenario())
    assert first == [Delta(0, "abc", None), Delta(1, "x", "stop")]
    assert second == [Delta(0, "def", "length")]


def test_tokens_without_text_do_not_wake_the_reader_with_nothing() -> None:
    async def scenario() -> list[list[Delta]]:
        generation = Generation([1], no_abort)
        reader = asyncio.ensure_future(collect(generation))
        for _ in range(3):
            generation.put(0, Text(0, "", 1))
            await asyncio.sleep(0)
        generation.put(0, Text(0, "é", 1))
        generation.put(0, Ended(0, "stop"))
        return await reader

    assert asyncio.run(scenario()) == [[Delta(0, "é", "stop")]]


def test_silence_is_filled_with_heartbeats() -> None:
    async def scenario() -> None:
        generation = Generation([1], no_abort)
        deltas = generation.deltas(heartbeat=0.001)
        assert await anext(deltas) == []
        assert await anext(deltas) == []
        generation.put(0, Text(0, "a", 0))
        generation.put(0, Ended(0, "stop"))
        assert await anext(deltas) == [Delta(0, "a", "stop")]
        with pytest.raises(StopAsyncIteration):
            await anext(deltas)

    asyncio.run(scenario())


def test_waiting_for_acceptance() -> None:
    async def scenario() -> None:
        generation = Generation([1, 1], no_abort)
        waiting = asyncio.ensure_future(generation.accepted())
        generation.put(0, Accepted(0))
        await asyncio.sleep(0)
        assert not waiting.done()
        generation.put(1, Rejected(1, "too long"))
        with pytest.raises(RequestRejected, match="too long"):
            await waiting

    asyncio.run(scenario())


def test_early_ends() -> None:
    async def ended(event: RequestEvent) -> None:
        generation = Generation([1], no_abort)
        generation.put(0, event)
        await generation.texts()

    with pytest.raises(GenerationFailed, match="broken") as failure:
        asyncio.run(ended(Failed(0, "broken")))
    assert not failure.value.shutdown
    with pytest.raises(GenerationFailed, match="shutting down") as failure:
        asyncio.run(ended(Ended(0, "abort")))
    assert failure.value.shutdown


def test_abandoning_names_the_requests() -> None:
    abandoned: list[Sequence[int]] = []
    generation = Generation([1, 1], abandoned.append)
    generation.request_ids += [7, 8]
    generation.abandon()
    assert abandoned == [[7, 8]]
