"""`tokenspeed serve` as users run it: the real small model, the official OpenAI client, 64 clients, SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

MODEL = "smollm2"
CLIENTS = 64


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    """The command with SmolLM2-135M-Instruct; after the tests SIGTERM must end it with status 0 and a clean log."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tokenspeed", "serve", "--model", MODEL, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--kv-memory", "256MiB"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "the server does not start"
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield SimpleNamespace(url=url)
        process.send_signal(signal.SIGTERM)
        output, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in log and "ERROR" not in log
        assert url in output and "curl" in output
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def client(server: SimpleNamespace) -> Iterator[openai.OpenAI]:
    """A client that does not retry."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def ask(client: Any, content: str, **fields: Any) -> Any:
    fields = {"temperature": 0, "max_tokens": 24} | fields
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}], **fields)


def test_chat_streamed_or_not_gives_the_same_answer(client: openai.OpenAI) -> None:
    whole = ask(client, "What is the capital of France?")
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(ask(client, "What is the capital of France?", stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    # The second time all full blocks of the prompt come from the prefix cache.
    assert usage.prompt_tokens_details.cached_tokens == (usage.prompt_tokens - 1) // 16 * 16


def test_stop_string(client: openai.OpenAI) -> None:
    free = ask(client, "Count from one to ten in words.").choices[0].message.content
    stop = free[len(free) // 2 :][:3]
    stopped = ask(client, "Count from one to ten in words.", stop=stop).choices[0]
    assert stopped.message.content == free[: free.index(stop)]
    assert stopped.finish_reason == "stop"


def test_seed_repeats_a_sampled_answer(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = ask(client, "Invent a name for a cat.", temperature=1.5, seed=seed, max_tokens=8)
        return str(answer.choices[0].message.content)

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_multi_byte_text_survives(client: openai.OpenAI) -> None:
    prompt = "🦜🦜🦜🦜🦜🦜🦜🦜"
    whole = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=12)
    pieces = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=12, stream=True)
    texts = [piece.choices[0].text for piece in pieces]
    assert "".join(texts) == whole.choices[0].text
    assert "🦜" in whole.choices[0].text
    assert not any("\ufffd" in text for text in texts[:-1])


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, "x", top_p=2)
    assert bad.value.param == "top_p"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "word " * 9000)
    assert long.value.code == "context_length_exceeded"


def test_half_of_64_clients_leave_midway(server: SimpleNamespace) -> None:
    async def talk(client: openai.AsyncOpenAI, number: int) -> str:
        messages: Any = [{"role": "user", "content": f"Tell me about the number {number}."}]
        text = ""
        stream = await client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=10, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if number % 2 and text:
                await stream.close()
                break
        return text

    async def talk_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120) as client:
            return await asyncio.gather(*(talk(client, number) for number in range(CLIENTS)))

    assert all(asyncio.run(talk_all()))
    levels = ("tokenspeed_num_requests_live 0.0", 'tokenspeed_kv_cache_blocks{state="held"} 0.0')
    deadline = time.monotonic() + 30
    while not all(level in (seen := httpx.get(f"{server.url}/metrics").text) for level in levels):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
