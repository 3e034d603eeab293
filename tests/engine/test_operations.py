"""Keys, request ids, names, load, tokens, and heads of requests that never end."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support import stand_ins as serving
from tokenspeed.engine.server.wire import connection, http_io
from tokenspeed.engine.server.wire.gate import read_keys

CHAT = {"messages": [{"role": "user", "content": "say:ok|"}]}


@pytest.fixture(scope="module")
def shared() -> Iterator[serving.ServerThread]:
    with serving.running_server() as running:
        yield running


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic one"}, 401),
        ({"authorization": "Bearer one"}, 200),
        ({"authorization": "bearer  two"}, 200),
        ({"x-api-key": "two"}, 200),
        ({"x-api-key": "tw"}, 401),
    ],
)
def test_a_key_is_asked_for(headers: dict[str, str], status: int) -> None:
    with serving.running_server(api_keys=["one", "two"]) as server:
        assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, headers=headers).status_code == status
        message = httpx.post(f"{server.url}/v1/messages", json={}, headers=headers)
        if status == 401:
            assert message.json()["error"]["type"] == "authentication_error" and message.json()["type"] == "error"
        for path in ("/health", "/ready", "/metrics", "/version"):
            assert httpx.get(server.url + path).status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 401


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\none\n\n  two  \n")
    assert read_keys(tmp_path / "keys") == ["one", "two"]
    (tmp_path / "none").write_text("# nothing\n")
    with pytest.raises(ValueError, match="no keys"):
        read_keys(tmp_path / "none")


def test_every_answer_has_the_id_of_its_request(shared: serving.ServerThread, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tokenspeed.access"):
        mine = httpx.post(f"{shared.url}/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine-1"})
        assert mine.headers["x-request-id"] == mine.headers["request-id"] == "mine-1"
        others = [httpx.get(f"{shared.url}/nowhere", headers={"x-request-id": "a b"}) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in others]
    assert len(set(ids)) == 2 and all(one.startswith("req_") for one in ids)
    deadline = time.monotonic() + 10
    while "path=/nowhere status=404" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "request_id=mine-1 method=POST path=/v1/chat/completions status=200" in caplog.text
    assert "say:ok" not in caplog.text


def test_other_names_of_the_model() -> None:
    with serving.running_server() as server:
        model = server.service.model
        assert model is not None
        server.service.model = replace(model, aliases=("gpt-5",))
        for name, status in (("fake", 200), ("gpt-5", 200), ("claude", 404)):
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT | {"model": name})
            assert answer.status_code == status
            if status == 200:
                assert answer.json()["model"] == name
        server.service.model = replace(model, aliases=("*",))
        assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT | {"model": "any"}).status_code == 200


def test_load_version_and_root(shared: serving.ServerThread) -> None:
    [load] = httpx.get(f"{shared.url}/v1/loads").json()["loads"]
    assert (load["num_running_reqs"], load["num_waiting_reqs"], load["max_total_num_tokens"]) == (0, 0, 1024)
    assert set(httpx.get(f"{shared.url}/version").json()) == {"version", "specification"}
    assert httpx.head(shared.url).status_code == 200


def test_tokens_of_a_text_and_back(shared: serving.ServerThread) -> None:
    answer = httpx.post(f"{shared.url}/tokenize", json={"prompt": "aé<|go|>", "return_token_strs": True}).json()
    assert answer["tokens"] == [97, 195, 169, 257] and answer["count"] == 4 and answer["token_strs"][-1] == "<|go|>"
    back = httpx.post(f"{shared.url}/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": "aé<|go|>"}
    wrong = httpx.post(f"{shared.url}/detokenize", json={"tokens": [258]})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "tokens"
    assert httpx.post(f"{shared.url}/tokenize", json={"prompt": "x" * 50_000}).status_code == 400


def test_openapi_has_no_loose_references(shared: serving.ServerThread) -> None:
    document = httpx.get(f"{shared.url}/openapi.json").json()
    assert {"/v1/messages", "/v1/responses", "/v1/chat/completions", "/tokenize"} <= set(document["paths"])

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    for reference in references(document):
        place: object = document
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(place, dict) and part in place, reference
            place = place[part]
    assert "429" in document["paths"]["/v1/chat/completions"]["post"]["responses"]


def read_all(client: socket.socket) -> bytes:
    client.settimeout(20)
    data = b""
    while piece := client.recv(4096):
        data += piece
    return data


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-half"])
def test_a_head_that_never_ends_is_given_up(
    shared: serving.ServerThread, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    with socket.create_connection(shared.address) as client:
        client.sendall(sent)
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_is_too_large_is_refused(shared: serving.ServerThread) -> None:
    with socket.create_connection(shared.address) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        try:
            for number in range(200):
                client.sendall(b"x-%d: %s\r\n" % (number, b"y" * 1000))
            assert b" 431 " in read_all(client)[:40]
        except OSError:
            pass  # what we sent on met a closed connection, and the answer is lost with it


def test_a_second_request_on_a_connection_has_its_own_deadline(
    shared: serving.ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with socket.create_connection(shared.address) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /health HTTP/1.1\r\nho")
        assert b" 408 " in read_all(client)[:40]


def test_a_body_that_never_ends_is_given_up(shared: serving.ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_io, "BODY_SECONDS", 0.2)
    with socket.create_connection(shared.address) as client:
        client.sendall(b'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"a')
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_bodies_that_arrive_at_once_are_bounded(shared: serving.ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_io, "MAX_UNREAD_BYTES", 1000)
    answer = httpx.post(f"{shared.url}/v1/completions", json={"prompt": "x" * 2000})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert http_io._arriving == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [' + b"{}," * 200_000 + b"{}]}",
        b'{"messages": [' + b"1," * 300_000 + b"1]}",
        b'{"messages": [' + b'{"role":"user","content":""},' * 30_000 + b'{"role":"user","content":""}]}',
        b'{"prompt": ' + b"[" * 100 + b"[1]," * 200_000 + b"[1]" + b"]" * 100 + b"}",
    ],
)
def test_hostile_bodies_are_refused_with_one_error(shared: serving.ServerThread, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        answer = httpx.post(shared.url + path, content=body, headers={"content-type": "application/json"}, timeout=60)
        assert answer.status_code == 400 and len(answer.content) < 1000


def test_containers_within_strings_do_not_count() -> None:
    assert http_io.containers(rb'{"a": "[[[{{{\"[[", "b": [1, {"c": "\\"}, []]}') == 4
    assert http_io.containers(b'"' + b"{" * 1000 + b'"') == 0


def test_a_stream_for_http_1_0_is_refused_and_an_answer_is_given(shared: serving.ServerThread) -> None:
    for stream, status in (("false", b" 200 "), ("true", b" 505 ")):
        body = b'{"prompt": "say:ok|", "stream": %s}' % stream.encode()
        with socket.create_connection(shared.address) as client:
            client.sendall(b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            answer = read_all(client)
        assert status in answer[:20] and b"chunked" not in answer
    shared.assert_drained()
