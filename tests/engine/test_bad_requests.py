"""Whatever a client sends, it gets an answer below 500 in OpenAI's error shape, and the server goes on."""

from __future__ import annotations

import json
import socket
import string
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import stand_ins as serving
from tokenspeed.engine.served_model import ServedModel
from tokenspeed.engine.server.openai.bodies import ChatCompletionRequest, CompletionRequest
from tokenspeed.engine.text.chat_template import ChatTemplate

PATHS = ["/v1/chat/completions", "/v1/completions"]
JSON_TYPE = {"content-type": "application/json"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "say:ok|"}], "max_tokens": 4}
COMPLETION = {"prompt": "say:ok|", "max_tokens": 4}


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """One server for all requests of this file; at its end nothing may be held."""
    with serving.running_server() as running, httpx.Client(base_url=running.url, timeout=60) as client:
        yield SimpleNamespace(client=client, service=running.service, address=running.address)
        assert client.post(PATHS[0], json=CHAT).json()["choices"][0]["message"]["content"] == "ok"


def check(response: httpx.Response) -> None:
    """An answer, or an OpenAI-shaped error below 500."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str) and error["message"]
        assert error["param"] is None or isinstance(error["param"], str)
        assert len(response.content) < 4096, "an error must not send back what was sent"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}, "messages[0].content"),
        ({"model": "gpt-5"}, "model"),
        ({"model": 5}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": []}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1}, "min_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"n": 65}, "n"),
        ({"n": 0}, "n"),
        ({"stop": 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", None]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "x" * 2000}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"guided_json": {}, "guided_regex": "a+"}, "guided_regex"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"ignore_eos": "no"}, "ignore_eos"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "system", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}, "messages[1].content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages[0].name"),
    ],
)
def test_chat_error_names_the_field(server: Any, change: dict[str, Any], param: str) -> None:
    response = server.client.post(PATHS[0], json=CHAT | change)
    check(response)
    assert response.status_code == (404 if change.get("model") == "gpt-5" else 400)
    error = response.json()["error"]
    assert error["param"] == param
    assert param.partition("[")[0].partition(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [258]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": "x" * 2000}, "prompt"),
        ({"echo": "x"}, "echo"),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"max_completion_tokens": "x"}, "max_completion_tokens"),
        ({"messages": CHAT["messages"]}, "messages"),
        ({"messages": "x"}, "messages"),
    ],
)
def test_completion_error_names_the_field(server: Any, change: dict[str, Any], param: str) -> None:
    response = server.client.post(PATHS[1], json=COMPLETION | change)
    check(response)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("repetition_penalty", [1.1, 0, "x", True, []]),
        ("functions", [[{"name": "f"}], "x", {}]),
        ("function_call", ["auto", "", {"name": "f"}, {}, 0, []]),
        ("response_format", [{"type": "json_object"}, {}, "text", []]),
        ("reasoning_effort", [5, True, [], {}]),
    ],
)
def test_field_that_is_not_supported_is_refused(server: Any, path: str, field: str, values: list[Any]) -> None:
    base = CHAT if path == PATHS[0] else COMPLETION
    for value in values:
        response = server.client.post(path, json=base | {field: value})
        check(response)
        assert response.status_code == 400, value
        assert response.json()["error"]["param"] == field


@pytest.mark.parametrize("path", PATHS)
def test_values_that_change_nothing_are_taken(server: Any, path: str) -> None:
    base = CHAT if path == PATHS[0] else COMPLETION
    fields = ["repetition_penalty", "tools", "functions", "function_call", "response_format", "reasoning_effort"]
    neutral = {
        "repetition_penalty": 1,
        "tools": [],
        "functions": [],
        "response_format": {"type": "text"},
        "reasoning_effort": "low",
    }
    if path == PATHS[1]:
        fields += ["messages", "max_completion_tokens"]
        neutral["messages"] = []
    for change in (dict.fromkeys(fields), neutral, {"repetition_penalty": 1.0}):
        response = server.client.post(path, json=base | change)
        assert response.status_code == 200, response.text


def test_refusals_say_what_to_send_instead(server: Any) -> None:
    for change, advice in (
        ({"max_completion_tokens": 5}, "max_tokens"),
        ({"messages": CHAT["messages"]}, "/v1/chat/completions"),
        ({"prompt": [[]]}, "a prompt is empty"),
        ({"prompt": [[97], []]}, "a prompt is empty"),
    ):
        error = server.client.post(PATHS[1], json=COMPLETION | change).json()["error"]
        assert advice in error["message"].removeprefix(error["param"])


@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": {"name": "f"}},
    ],
)
@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_assistant_that_calls_a_tool_needs_no_content(
    server: Any, call: dict[str, Any], content: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", **call, **content}, *CHAT["messages"]]
    assert server.client.post(PATHS[0], json=CHAT | {"messages": messages}).status_code == 200


def test_missing_field_is_named(server: Any) -> None:
    for path, field in zip(PATHS, ["messages", "prompt"], strict=True):
        error = server.client.post(path, json={}).json()["error"]
        assert (error["param"], error["code"]) == (field, "missing_required_parameter")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"5",
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"messages": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}",
        b'{"messages": [{"role": "user", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}]",
        b"\x00" * 1000,
        "﻿{}".encode(),
        b"prompt=x&max_tokens=5",
    ],
)
def test_body_that_is_no_request(server: Any, path: str, body: bytes) -> None:
    response = server.client.post(path, content=body, headers=JSON_TYPE)
    check(response)
    assert response.status_code == 400


def test_deep_unknown_field_is_ignored(server: Any) -> None:
    body = json.dumps(COMPLETION)[:-1].encode() + b', "extra": ' + b"[" * 900 + b"]" * 900 + b"}"
    assert server.client.post(PATHS[1], content=body, headers=JSON_TYPE).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", "/;="])
def test_other_content_types_are_refused(server: Any, kind: str) -> None:
    response = server.client.post(PATHS[1], content=json.dumps(COMPLETION), headers={"content-type": kind})
    check(response)
    assert response.status_code == 415


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json", None]
)
def test_json_content_types_are_taken(server: Any, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    assert server.client.post(PATHS[1], content=json.dumps(COMPLETION), headers=headers).status_code == 200


def test_body_that_is_too_large(server: Any) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(40):
            yield b"x" * 2**20

    response = server.client.post(PATHS[1], content=chunks(), headers=JSON_TYPE)
    check(response)
    assert response.status_code == 413


def test_unknown_paths_and_methods(server: Any) -> None:
    for method, path, status in (
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/completions", 405),
        ("POST", "/metrics", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/%00", 404),
        ("GET", "/v1/models/%ff", 404),
    ):
        response = server.client.request(method, path)
        check(response)
        assert response.status_code == status


def test_template_that_refuses_the_messages(server: Any) -> None:
    model = server.service.model
    try:
        refusing = ChatTemplate("{{ raise_exception('system message comes first') }}")
        server.service.model = ServedModel("fake", model.tokenizer, refusing, 1024)
        error = server.client.post(PATHS[0], json=CHAT).json()["error"]
        assert error["param"] == "messages" and "system message comes first" in error["message"]
        server.service.model = ServedModel("fake", model.tokenizer, None, 1024)
        assert "no chat template" in server.client.post(PATHS[0], json=CHAT).json()["error"]["message"]
    finally:
        server.service.model = model


def test_connection_that_breaks_within_the_body(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    for data in (b"", b"GARBAGE\r\n\r\n", b'{"prompt": "x'):
        with socket.create_connection(server.address) as connection:
            head = (
                f"POST {PATHS[1]} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            )
            connection.sendall((head.encode() if data != b"GARBAGE\r\n\r\n" else b"") + data)
    assert server.client.get("/health").status_code == 200
    assert "Traceback" not in caplog.text


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["user", "assistant", "text", "fake", "say:hi|", "\x00", "\ud800", "x" * 3000]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name", "a"]), inner, max_size=4),
    ),
    max_leaves=8,
)
FIELDS = [*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields, "user", "extra"]
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(path=st.sampled_from(PATHS), change=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=HEALTH)
def test_any_value_in_any_field(server: Any, path: str, change: dict[str, Any]) -> None:
    base = CHAT if path == PATHS[0] else COMPLETION
    body = json.dumps({**base, **change}).encode()
    check(server.client.post(path, content=body, headers=JSON_TYPE))


@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=HEALTH)
def test_any_bytes(server: Any, path: str, body: bytes) -> None:
    check(server.client.post(path, content=body, headers=JSON_TYPE))


@given(
    path=st.sampled_from(PATHS),
    cuts=st.lists(st.tuples(st.integers(0, 200), st.text(string.printable, max_size=3)), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None, suppress_health_check=HEALTH)
def test_any_damage_to_a_good_body(server: Any, path: str, cuts: list[tuple[int, str]]) -> None:
    text = json.dumps(CHAT if path == PATHS[0] else COMPLETION)
    for place, insert in cuts:
        text = text[: place % len(text)] + insert + text[place % len(text) + len(insert) :]
    check(server.client.post(path, content=text.encode(), headers=JSON_TYPE))
