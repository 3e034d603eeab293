"""The HTTP API over a stand-in for the model: chat, completions, models, health and back-pressure."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support import stand_ins as serving
from tokenspeed.engine.served_model import ServedModel
from tokenspeed.engine.server.service import Phase


def post(server: Any, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=30)


def chat(server: Any, content: Any, **body: Any) -> httpx.Response:
    return post(server, "chat/completions", messages=[{"role": "user", "content": content}], **body)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON events of a stream, which must end in [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_chat_answer(server: Any) -> None:
    answer = chat(server, "say:Grüße|", model="fake").json()
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Grüße", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    prompt = len("user:say:Grüße|\n".encode()) + 1
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 8,  # seven bytes and the end token
        "total_tokens": prompt + 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_completion_answer(server: Any) -> None:
    answer = post(server, "completions", prompt="abc", max_tokens=7).json()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {"index": 0, "text": serving.expected_text(b"abc", 7), "finish_reason": "length", "logprobs": None}
    ]
    assert answer["usage"]["completion_tokens"] == 7


def test_completions_take_text_or_tokens_alone_or_in_lists(server: Any) -> None:
    texts = [serving.expected_text(prompt, 16) for prompt in (b"abc", b"de")]
    for prompt, expected in (
        ("abc", texts[:1]),
        (["abc", "de"], texts),
        ([97, 98, 99], texts[:1]),
        ([[97, 98, 99], [100, 101]], texts),
        (["abc", [100, 101]], texts),
    ):
        answer = post(server, "completions", prompt=prompt).json()
        assert [choice["text"] for choice in answer["choices"]] == expected
        assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
        assert answer["usage"]["completion_tokens"] == 16 * len(expected)


def test_content_as_text_parts(server: Any) -> None:
    parts = [{"type": "text", "text": "say:one"}, {"type": "text", "text": " two|"}]
    assert chat(server, parts).json()["choices"][0]["message"]["content"] == "one two"


def test_further_fields_and_roles_reach_the_template_or_are_ignored(server: Any) -> None:
    messages = [
        {"role": "developer", "content": "be brief", "name": "boss"},
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "user", "content": "say:ok|"},
    ]
    answer = post(
        server,
        "chat/completions",
        messages=messages,
        metadata={"a": {"b": 1}},
        user="me",
        store=False,
        parallel_tool_calls=True,
        tools=[],
        logprobs=False,
        logit_bias={},
        presence_penalty=0,
        frequency_penalty=0.0,
        n=1,
        response_format={"type": "text"},
        stream_options=None,
        max_tokens=None,
        temperature=None,
    )
    assert answer.json()["choices"][0]["message"]["content"] == "ok"


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"stop": "wo"}, "one t", "stop"),
        ({"stop": ["never", "e t"]}, "on", "stop"),
        ({"stop": []}, "one two", "stop"),
        ({"stop_token_ids": [ord("t")]}, "one ", "stop"),
        ({"max_tokens": 3}, "one", "length"),
        ({"max_completion_tokens": 3, "max_tokens": 5}, "one", "length"),
        ({"max_tokens": 8, "ignore_eos": True}, "one two", "length"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_where_the_output_ends(server: Any, fields: dict[str, Any], text: str, reason: str, stream: bool) -> None:
    response = chat(server, "say:one two|", stream=stream, **fields)
    if stream:
        choices = [event["choices"][0] for event in events(response)]
        seen = "".join(choice["delta"].get("content", "") for choice in choices), choices[-1]["finish_reason"]
    else:
        [choice] = response.json()["choices"]
        seen = choice["message"]["content"], choice["finish_reason"]
    assert seen == (text, reason)


def test_chat_stream(server: Any) -> None:
    chunks = events(chat(server, "say:héllo wörld|", stream=True, stream_options={"include_usage": True}))
    assert {(chunk["object"], chunk["id"]) for chunk in chunks} == {("chat.completion.chunk", chunks[0]["id"])}
    *content, last, usage = chunks
    assert content[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in content) == "héllo wörld"
    assert all(chunk["choices"][0]["finish_reason"] is None and chunk["usage"] is None for chunk in content)
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 14
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_stream_without_usage_has_none(server: Any) -> None:
    assert all("usage" not in chunk for chunk in events(chat(server, "say:hi|", stream=True)))


def test_completions_stream_of_several_prompts(server: Any) -> None:
    chunks = events(post(server, "completions", prompt=["say:one|", "say:three|"], stream=True))
    texts, reasons = {0: "", 1: ""}, {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"]
    assert (texts, reasons) == ({0: "one", 1: "three"}, {0: "stop", 1: "stop"})


def test_tokens_that_arrive_while_the_client_is_slow_are_sent_together(server: Any) -> None:
    text = "x" * 200
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={"prompt": f"say:{text}|", "max_tokens": 300, "stream": True}
    ) as response:
        assert response.status_code == 200
        server.wait_until('tokenspeed_request_success_total{finished_reason="stop"}', 1)
        response.read()
    assert "".join(chunk["choices"][0]["text"] for chunk in events(response)) == text


def test_second_turn_finds_the_first_in_the_cache(server: Any) -> None:
    first = post(server, "completions", prompt="a prompt of many blocks: 0123456789", max_tokens=8).json()
    prompt = "a prompt of many blocks: 0123456789" + first["choices"][0]["text"] + " next"
    second = post(server, "completions", prompt=prompt, max_tokens=1).json()
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    # All full blocks of what the first turn computed; its last token was sampled but never fed back.
    assert cached == (len("a prompt of many blocks: 0123456789") + 7) // 4 * 4


def test_models(server: Any) -> None:
    listing = httpx.get(f"{server.url}/v1/models").json()
    assert listing["object"] == "list"
    [card] = listing["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("fake", "model", 1024)
    assert httpx.get(f"{server.url}/v1/models/fake").json() == card
    missing = httpx.get(f"{server.url}/v1/models/other/name")
    assert missing.status_code == 404 and missing.json()["error"]["param"] == "model"


def test_max_tokens_is_clamped_to_what_fits(server: Any) -> None:
    prompt = [65] * 1000
    for asked in (24, 25, 32000, 2**31 - 1):
        answer = post(server, "completions", prompt=prompt, max_tokens=asked, ignore_eos=True).json()
        assert answer["usage"]["completion_tokens"] == 24
        assert answer["choices"][0]["finish_reason"] == "length"
    mixed = post(server, "completions", prompt=[prompt, [65] * 1010], max_tokens=20, ignore_eos=True).json()
    assert mixed["usage"]["completion_tokens"] == 20 + 14
    too_long = post(server, "completions", prompt=[65] * 1024).json()["error"]
    assert (too_long["code"], too_long["param"]) == ("context_length_exceeded", "prompt")
    # A chat without max_tokens takes what is left.
    assert chat(server, "x" * 900, ignore_eos=True).json()["usage"]["total_tokens"] == 1024


def test_prompt_that_the_scheduler_refuses_ends_the_whole_call(server: Any) -> None:
    model = server.service.model
    server.service.model = ServedModel("fake", model.tokenizer, model.chat_template, 10**6)
    server.runner.step_seconds = 0.005
    refused = post(server, "completions", prompt=["abc", "x" * 2000], max_tokens=900, ignore_eos=True)
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("request_rejected", "prompt")
    server.assert_drained()
    assert server.metric('tokenspeed_admission_rejections_total{reason="scheduler"}') == 1
    assert server.metric('tokenspeed_request_success_total{finished_reason="abort"}') == 1


def test_too_many_waiting_requests_are_refused() -> None:
    with (
        serving.running_server(serving.small_config(max_running=2), max_waiting=3) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        server.runner.hold()
        running = pool.submit(post, server, "completions", prompt="run")
        server.wait_until("tokenspeed_num_requests_running", 1)
        server.wait_until("tokenspeed_num_steps_in_flight", 2)  # no further step is planned until one lands
        waiting = [pool.submit(post, server, "completions", prompt=f"wait {i}") for i in range(3)]
        server.wait_until("tokenspeed_num_requests_waiting", 3)
        refused = post(server, "completions", prompt="one too many")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert server.metric('tokenspeed_admission_rejections_total{reason="overloaded"}') == 1
        server.runner.release()
        assert [future.result().status_code for future in [running, *waiting]] == [200] * 4
        assert post(server, "completions", prompt="now there is room").status_code == 200


def test_health_follows_the_phase(server: Any) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    for phase in (Phase.STARTING, Phase.DRAINING, Phase.FAILED):
        server.service.phase = phase
        for response in (
            httpx.get(f"{server.url}/health"),
            httpx.get(f"{server.url}/v1/models"),
            post(server, "completions", prompt="abc"),
        ):
            assert response.status_code == 503 and response.headers["retry-after"] == "5"
            assert phase.value in response.json()["error"]["message"]
    server.service.phase = Phase.READY


def test_head_of_health_is_that_of_get_without_a_body(server: Any) -> None:
    for phase, status in ((Phase.READY, 200), (Phase.DRAINING, 503)):
        server.service.phase = phase
        head, get = httpx.head(f"{server.url}/health"), httpx.get(f"{server.url}/health")
        assert (head.status_code, get.status_code) == (status, status)
        assert head.content == b"" and get.content
        for name in ("content-type", "content-length", "retry-after"):
            assert head.headers.get(name) == get.headers.get(name)
    server.service.phase = Phase.READY


def test_health_reports_a_runner_that_keeps_failing(server: Any) -> None:
    def fail(plan: Any) -> None:
        raise RuntimeError("broken")

    server.runner.before_step = fail
    while httpx.get(f"{server.url}/health").status_code == 200:
        response = post(server, "completions", prompt="abc")
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "broken" not in response.text
    assert "steps failed" in httpx.get(f"{server.url}/health").json()["error"]["message"]
    server.runner.before_step = lambda plan: None
    assert post(server, "completions", prompt="abc").status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_failure_in_the_middle_of_a_stream_ends_it_with_an_error_event(server: Any) -> None:
    steps = iter(range(100))

    def fail(plan: Any) -> None:
        if next(steps) == 5:
            raise RuntimeError("broken")

    server.runner.before_step = fail
    *chunks, error = events(chat(server, "say:a longer answer|", stream=True))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert error["error"]["type"] == "server_error"


def test_concurrent_requests_get_their_own_answers(server: Any) -> None:
    barrier = threading.Barrier(32)

    def ask(number: int) -> bool:
        barrier.wait()
        response = post(server, "completions", prompt=f"request {number}", max_tokens=10 + number)
        expected = serving.expected_text(f"request {number}".encode(), 10 + number)
        return bool(response.json()["choices"][0]["text"] == expected)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(32)))
