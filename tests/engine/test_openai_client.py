"""The official OpenAI client against the server, with a stand-in for the model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from support import stand_ins as serving

USER = [{"role": "user", "content": "say:one two three|"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """One server for the file."""
    with serving.running_server() as running:
        yield running


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    """A client that does not retry, so that errors are seen."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: Any) -> None:
    answer = client.chat.completions.create(model="fake", messages=USER)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_streamed_chat(client: Any) -> None:
    stream = client.chat.completions.create(
        model="fake", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 14


def test_streaming_helper(client: Any) -> None:
    with client.chat.completions.stream(model="fake", messages=USER) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == "one two three"


def test_completions(client: Any) -> None:
    assert client.completions.create(model="fake", prompt="say:hi|").choices[0].text == "hi"
    streamed = client.completions.create(model="fake", prompt="say:hello|", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "hello"


def test_stop_and_extensions(client: Any) -> None:
    for stop in ("two", ["x", "two"]):
        answer = client.chat.completions.create(model="fake", messages=USER, stop=stop)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one ", "stop")
    answer = client.completions.create(
        model="fake", prompt="say:hi|", max_tokens=5, seed=1, extra_body={"ignore_eos": True, "top_k": 5}
    )
    assert answer.usage.completion_tokens == 5


def test_models(client: Any) -> None:
    [model] = client.models.list().data
    assert (model.id, model.max_model_len) == ("fake", 1024)
    assert client.models.retrieve("fake").id == "fake"


def test_errors_have_the_type_that_the_client_expects(server: Any, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=USER, temperature=3)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature",
        "invalid_value",
        "invalid_request_error",
    )
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x" * 5000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=USER)
    assert missing.value.code == "model_not_found"

    def fail(plan: Any) -> None:
        raise RuntimeError("broken")

    server.runner.before_step = fail
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="fake", messages=USER)
    with pytest.raises(openai.APIError, match="failed"):
        list(client.chat.completions.create(model="fake", messages=USER, stream=True))
    server.runner.before_step = lambda plan: None


def test_retries_after_429_succeed() -> None:
    async def flood(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=8) as client:
            calls = [client.completions.create(model="fake", prompt=f"say:{i}|") for i in range(12)]
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    with serving.running_server(serving.small_config(max_running=4), max_waiting=4) as server:
        server.runner.step_seconds = 0.02
        assert asyncio.run(flood(server.url)) == [str(i) for i in range(12)]
