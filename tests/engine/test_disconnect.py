"""Clients that go away: their requests are aborted and their pages come back, whatever they were doing."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import openai
import pytest

from support import stand_ins as serving

CLIENTS = 64


def raw_request(server: Any, path: str = "/v1/completions", **body: Any) -> socket.socket:
    """A connection on which something has been asked for."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection = socket.create_connection(server.address)
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/v1/completions", {"prompt": "abc"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "abc"}]}),
    ],
)
def test_client_that_leaves_while_its_request_runs(server: Any, path: str, prompt: Any, stream: bool) -> None:
    server.runner.step_seconds = 0.005
    connection = raw_request(server, path, **prompt, max_tokens=900, ignore_eos=True, stream=stream)
    server.wait_until("tokenspeed_num_requests_running", 1)
    connection.close()
    server.assert_drained()  # long before its 900 tokens
    assert server.metric('tokenspeed_request_success_total{finished_reason="abort"}') == 1
    assert server.metric("tokenspeed_generation_tokens_total") < 900


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_while_its_request_waits(stream: bool) -> None:
    with serving.running_server(serving.small_config(max_running=1), max_waiting=1) as server:
        server.runner.hold()
        first = raw_request(server, prompt="first", max_tokens=4)
        server.wait_until("tokenspeed_num_requests_running", 1)
        second = raw_request(server, prompt="second", stream=stream)
        server.wait_until("tokenspeed_num_requests_waiting", 1)
        second.close()
        server.wait_until("tokenspeed_num_requests_waiting", 0)
        third = raw_request(server, prompt="third")  # takes the place in line
        server.wait_until("tokenspeed_num_requests_waiting", 1)
        server.runner.release()
        assert b"200 OK" in first.recv(1000)
        assert b"200 OK" in third.recv(1000)
        first.close()
        third.close()


def test_client_that_leaves_during_a_chunked_prefill() -> None:
    with serving.running_server(serving.small_config(max_running=4, max_step_tokens=8)) as server:
        server.runner.step_seconds = 0.01
        connection = raw_request(server, prompt="x" * 800, max_tokens=100, stream=True)
        server.wait_until("tokenspeed_num_requests_running", 1)
        connection.close()
        server.assert_drained()
        assert server.metric("tokenspeed_generation_tokens_total") == 0


def test_client_that_closes_its_sending_side_or_resets(server: Any) -> None:
    server.runner.step_seconds = 0.005
    half = raw_request(server, prompt="abc", max_tokens=900, ignore_eos=True, stream=True)
    server.wait_until("tokenspeed_num_requests_running", 1)
    half.shutdown(socket.SHUT_WR)
    server.assert_drained()
    half.close()
    reset = raw_request(server, prompt="abc", max_tokens=900, ignore_eos=True, stream=True)
    server.wait_until("tokenspeed_num_requests_running", 1)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    reset.close()
    server.assert_drained()


def test_client_that_never_reads_does_not_hold_up_the_others(server: Any) -> None:
    server.runner.step_seconds = 0.005
    silent = raw_request(server, prompt="abc", max_tokens=900, ignore_eos=True, stream=True)
    server.wait_until("tokenspeed_num_requests_running", 1)
    for _ in range(3):
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "def"}).status_code == 200
    server.assert_drained()
    silent.close()


def test_half_of_64_clients_leave_midway() -> None:
    config = serving.small_config(num_blocks=512, max_running=24, max_step_tokens=96)
    prefix = "a shared beginning of several blocks, then client "

    async def ask(client: Any, number: int) -> str:
        """Streams for even pairs of clients; every second client leaves after a few tokens."""
        leaves, streams = number % 2 == 1, number % 4 < 2
        body: dict[str, Any] = {"model": "fake", "prompt": f"{prefix}{number:02}", "max_tokens": 40 + number}
        if not streams:
            call = client.completions.create(**body)
            if not leaves:
                return str((await call).choices[0].text)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, 0.05 + number / 500)
            return ""
        text = ""
        stream = await client.completions.create(**body, stream=True)
        async for chunk in stream:
            text += chunk.choices[0].text
            if leaves and len(text) > number % 7:
                await stream.close()
                return str(text)
        return text

    async def ask_all(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(CLIENTS)))

    with serving.running_server(config) as server:
        server.runner.step_seconds = 0.01
        texts = asyncio.run(ask_all(server.url))
        server.assert_drained()
        stats = server.scheduler.stats()
        assert (stats.live_requests, stats.held_blocks, stats.steps_in_flight) == (0, 0, 0)
        assert stats.submitted == stats.finished + stats.aborted
        assert stats.submitted >= CLIENTS * 3 // 4  # a call that is not streamed may time out before it was sent
        assert stats.aborted > 0
    for number, text in enumerate(texts):
        expected = serving.expected_text(f"{prefix}{number:02}".encode(), 40 + number)
        assert text == expected if number % 2 == 0 else expected.startswith(text)
