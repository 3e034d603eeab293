"""Sessions as agents send them: each turn's prompt extends the last one's, so that nearly all of it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from support import stand_ins as serving

TURNS = 6
GUIDE = "You work in a repository and call tools. " * 150
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
CALLS = [
    '<tool_call>\n{"name": "bash", "arguments": '
    f'{{"command": "step {n}",   "deep": [{{"b":2, "a": "é"}}]}}}}\n</tool_call>'
    for n in range(TURNS)
]  # fmt: skip
SCRIPT = "say:" + "~".join(f"Step {n}.\n{call}" for n, call in enumerate(CALLS)) + "|"


@pytest.fixture(scope="module")
def server() -> Iterator[serving.ServerThread]:
    config = serving.small_config(num_blocks=4096, block_size=8, max_step_tokens=4096)
    with serving.running_server(config, rule=serving.by_turn) as running:
        yield running


def chat(post: Callable[..., Any]) -> Iterator[tuple[int, int]]:
    """opencode, mini-swe-agent and others: OpenAI's chat."""
    tools = [{"type": "function", "function": {"name": "bash", "description": "Run.", "parameters": SCHEMA}}]
    messages: list[Any] = [{"role": "system", "content": GUIDE}, {"role": "user", "content": SCRIPT}]
    for turn in range(TURNS):
        answer = post("/v1/chat/completions", messages=messages, tools=tools)
        yield answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer["usage"]["prompt_tokens"]
        message = answer["choices"][0]["message"]
        assert len(message["tool_calls"]) == 1
        messages.append(message)
        messages.append({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": f"out {turn}"})


def messages_api(post: Callable[..., Any]) -> Iterator[tuple[int, int]]:
    """Claude Code: billing header that changes, marks that move, a system message in the middle."""
    tools = [{"name": "bash", "description": "Run.", "input_schema": SCHEMA}]
    messages: list[Any] = [{"role": "user", "content": SCRIPT}, {"role": "system", "content": "Agents: " + "x " * 200}]
    for turn in range(TURNS):
        system = [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.197; cch={turn};"},
            {"type": "text", "text": GUIDE, "cache_control": {"type": "ephemeral"}},
        ]
        sent = [dict(message) for message in messages]
        if isinstance(sent[-1]["content"], list):
            sent[-1]["content"] = [dict(block, cache_control={"type": "ephemeral"}) for block in sent[-1]["content"]]
        answer = post("/v1/messages", messages=sent, tools=tools, system=system, max_tokens=500, model="fake")
        cached = answer["usage"]["cache_read_input_tokens"]
        yield cached, cached + answer["usage"]["input_tokens"]
        messages.append({"role": "assistant", "content": answer["content"]})
        call = answer["content"][-1]
        assert call["type"] == "tool_use"
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": f"out {turn}"}
        messages.append({"role": "user", "content": [result]})


def responses_api(post: Callable[..., Any]) -> Iterator[tuple[int, int]]:
    """Codex: items, and tools of other types."""
    tools = [{"type": "function", "name": "bash", "description": "Run.", "parameters": SCHEMA}, {"type": "web_search"}]
    items: list[Any] = [{"role": "developer", "content": GUIDE}, {"role": "user", "content": SCRIPT}]
    for turn in range(TURNS):
        answer = post("/v1/responses", input=items, tools=tools)
        yield answer["usage"]["input_tokens_details"]["cached_tokens"], answer["usage"]["input_tokens"]
        items += answer["output"]
        call = answer["output"][-1]
        items.append({"type": "function_call_output", "call_id": call["call_id"], "output": f"out {turn}"})


@pytest.mark.parametrize("session", [chat, messages_api, responses_api])
def test_from_the_second_turn_nearly_all_is_cached(server: serving.ServerThread, session: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def post(path: str, **body: Any) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        shares = [cached / prompt for cached, prompt in session(post)]
    assert all(share >= 0.95 for share in shares[1:]), shares


def test_a_call_that_comes_back_is_the_tokens_that_were_generated(server: serving.ServerThread) -> None:
    """The arguments' spaces and the order of their keys are the model's own, not those of a JSON writer."""
    written = '{"command": "ls",   "deep": {"b":1, "a":[2,  3]}}'
    call = {"id": "1", "type": "function", "function": {"name": "bash", "arguments": written}}
    messages: list[Any] = [{"role": "user", "content": "say:ok|"}]
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    messages.append({"role": "tool", "tool_call_id": "1", "content": "y"})
    seen: list[str] = []
    model = server.service.model
    assert model is not None and model.chat_template is not None
    render = model.chat_template.render

    def spy(shown: Any, **names: Any) -> str:
        seen.append(render(shown, **names))
        return seen[-1]

    model.chat_template.render = spy  # type: ignore[method-assign]
    try:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": messages, "max_tokens": 1})
    finally:
        model.chat_template.render = render  # type: ignore[method-assign]
    assert answer.status_code == 200
    assert f'"arguments": {written}' in seen[0]
