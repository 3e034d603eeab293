"""Tools and thinking in each protocol, through the makers' own clients, over a model that follows a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from support import stand_ins as serving

anthropic = pytest.importorskip("anthropic")

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls -la"}}\n</tool_call>'
SCRIPT = f"say:I look.\n{CALL}\n{CALL}~It is done.|"
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
FUNCTION = {"name": "bash", "description": "Run a command.", "parameters": SCHEMA}
CHAT_TOOLS: Any = [{"type": "function", "function": FUNCTION}]
RESPONSE_TOOLS: Any = [{"type": "function", **FUNCTION}, {"type": "web_search"}]
CLAUDE_TOOLS: Any = [{"name": "bash", "description": "Run a command.", "input_schema": SCHEMA}]


@pytest.fixture(scope="module")
def server() -> Iterator[serving.ServerThread]:
    config = serving.small_config(num_blocks=4096, block_size=16, max_step_tokens=2048)
    with serving.running_server(config, rule=serving.by_turn) as running:
        yield running


@pytest.fixture
def gpt(server: serving.ServerThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: serving.ServerThread) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_chat_calls_tools_and_goes_on(gpt: openai.OpenAI, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": SCRIPT}]
    if stream:
        with gpt.chat.completions.stream(model="fake", messages=messages, tools=CHAT_TOOLS) as events:
            answer: Any = events.get_final_completion()
    else:
        answer = gpt.chat.completions.create(model="fake", messages=messages, tools=CHAT_TOOLS)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    calls = choice.message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("bash", {"command": "ls -la"})
    ] * 2
    assert len({call.id for call in calls}) == 2
    messages.append(choice.message.model_dump(exclude_none=True, exclude={"parsed"}))
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "a b"} for call in calls]
    last = gpt.chat.completions.create(model="fake", messages=messages, tools=CHAT_TOOLS)
    assert (last.choices[0].finish_reason, last.choices[0].message.content) == ("stop", "It is done.")
    assert last.usage is not None and last.usage.prompt_tokens_details is not None
    assert (last.usage.prompt_tokens_details.cached_tokens or 0) > 0.5 * last.usage.prompt_tokens


def test_chat_without_tools_says_calls_as_text(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model="fake", messages=[{"role": "user", "content": SCRIPT}])
    assert answer.choices[0].message.content == f"I look.\n{CALL}\n{CALL}"
    none = gpt.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": SCRIPT}], tools=CHAT_TOOLS, tool_choice="none"
    )
    assert none.choices[0].message.tool_calls is None


def test_only_one_call_if_parallel_ones_are_not_wanted(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": SCRIPT}], tools=CHAT_TOOLS, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or []) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "bash"}}])
def test_a_demanded_call_is_begun_for_the_model(gpt: openai.OpenAI, choice: Any) -> None:
    # The stand-in speaks on from the end of the prompt, which holds the beginning of the call already.
    answer = gpt.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": f"say:{CALL}|"}], tools=CHAT_TOOLS, tool_choice=choice
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"command": "ls -la"}  # type: ignore[union-attr]
    assert answer.usage is not None and answer.usage.completion_tokens < len(CALL)


def test_several_choices_share_the_prompt(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model="fake", messages=[{"role": "user", "content": "say:hi|"}], n=3, seed=1)
    assert [choice.message.content for choice in answer.choices] == ["hi"] * 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None and answer.usage.completion_tokens == 9


def test_the_final_message_is_continued(gpt: openai.OpenAI) -> None:
    answer = gpt.completions.create(model="fake", prompt="<|go|>say:hi|<|go|>", echo=True, n=2)
    assert [choice.text for choice in answer.choices] == ["<|go|>say:hi|<|go|>hi"] * 2


def test_thinking_is_told_apart(gpt: openai.OpenAI, claude: Any) -> None:
    words = "say:<think>\nHm, well.\n</think>\n\nYes.|"
    answer: Any = gpt.chat.completions.create(model="fake", messages=[{"role": "user", "content": words}])
    assert (answer.choices[0].message.reasoning_content, answer.choices[0].message.content) == ("Hm, well.", "Yes.")
    message = claude.messages.create(model="fake", max_tokens=99, messages=[{"role": "user", "content": words}])
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.content[0].thinking, message.content[1].text) == ("Hm, well.", "Yes.")
    response = gpt.responses.create(model="fake", input=words)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text == "Yes."


@pytest.mark.parametrize("stream", [False, True])
def test_messages_call_tools_and_go_on(claude: Any, stream: bool) -> None:
    ask: dict[str, Any] = {
        "model": "fake",
        "max_tokens": 32000 if stream else 3000,
        "tools": CLAUDE_TOOLS,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.009; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are brief.", "cache_control": {"type": "ephemeral"}},
        ],
    }
    messages: list[Any] = [{"role": "user", "content": SCRIPT}, {"role": "system", "content": "Agents: none."}]
    if stream:
        with claude.messages.stream(**ask, messages=messages) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**ask, messages=messages)
    assert answer.stop_reason == "tool_use"
    text, first, second = answer.content
    assert (text.text, first.name, first.input, second.input) == ("I look.", "bash", {"command": "ls -la"}, first.input)
    messages.append({"role": "assistant", "content": [block.model_dump() for block in answer.content]})
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "a"}]}
               for call in (first, second)]  # fmt: skip
    messages.append({"role": "user", "content": results})
    last = claude.messages.create(**ask | {"max_tokens": 3000}, messages=messages)
    assert (last.stop_reason, last.content[0].text) == ("end_turn", "It is done.")
    usage = last.usage
    assert usage.cache_read_input_tokens > usage.input_tokens
    counted = claude.messages.count_tokens(model="fake", messages=messages, tools=CLAUDE_TOOLS, system=ask["system"])
    assert counted.input_tokens == usage.cache_read_input_tokens + usage.input_tokens


def test_billing_headers_and_cache_marks_change_no_token(claude: Any) -> None:
    def tokens(version: str, marked: int) -> int:
        system = [{"type": "text", "text": f"x-anthropic-billing-header: cc_version={version};"}]
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "a"} | (
                {"cache_control": {"type": "ephemeral"}} if at == marked else {})]}
            for at in range(3)
        ]  # fmt: skip
        return int(claude.messages.count_tokens(model="fake", messages=messages, system=system).input_tokens)

    assert tokens("2.1.197.009", 0) == tokens("2.1.197.f54f54f54", 2)


def test_stop_sequences_are_named(claude: Any) -> None:
    message = claude.messages.create(
        model="fake", max_tokens=99, stop_sequences=["wo"], messages=[{"role": "user", "content": "say:one two|"}]
    )
    assert (message.stop_reason, message.stop_sequence, message.content[0].text) == ("stop_sequence", "wo", "one t")
    cut = claude.messages.create(model="fake", max_tokens=3, messages=[{"role": "user", "content": "say:one two|"}])
    assert (cut.stop_reason, cut.content[0].text) == ("max_tokens", "one")


def test_errors_have_anthropics_shape(claude: Any, server: serving.ServerThread) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+ maximum"):
        claude.messages.create(model="fake", max_tokens=9, messages=[{"role": "user", "content": "x" * 70_000}])
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="other", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    response = httpx.post(f"{server.url}/v1/messages", json={"model": "fake", "messages": [{"role": "user"}]})
    assert response.status_code == 400
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith(("messages[0].content", "max_tokens"))
    image = {"role": "user", "content": [{"type": "image", "source": {}}]}
    refused = httpx.post(f"{server.url}/v1/messages", json={"model": "fake", "max_tokens": 5, "messages": [image]})
    assert "messages[0].content[0].type" in refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_responses_call_tools_and_go_on(gpt: openai.OpenAI, stream: bool) -> None:
    items: list[Any] = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": SCRIPT}]
    if stream:
        with gpt.responses.stream(model="fake", input=items, tools=RESPONSE_TOOLS) as events:
            kinds = [event.type for event in events]
            answer: Any = events.get_final_response()
        assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
        assert kinds[-1] == "response.completed"
    else:
        answer = gpt.responses.create(model="fake", input=items, tools=RESPONSE_TOOLS)
    assert answer.status == "completed"
    assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
    assert answer.output_text == "I look." and json.loads(answer.output[1].arguments) == {"command": "ls -la"}
    items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in answer.output]
    items += [{"type": "function_call_output", "call_id": item.call_id, "output": "a"} for item in answer.output[1:]]
    last = gpt.responses.create(model="fake", input=items, tools=RESPONSE_TOOLS)
    assert last.output_text == "It is done."
    assert last.usage is not None
    assert last.usage.input_tokens_details.cached_tokens > 0.5 * last.usage.input_tokens


def test_responses_refuse_what_is_not_kept(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        gpt.responses.create(model="fake", input="x", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match=r"input\[0\].type"):
        gpt.responses.create(model="fake", input=[{"type": "computer_call_output", "call_id": "1"}])  # type: ignore[list-item]
    cut = gpt.responses.create(model="fake", input="say:one two|", max_output_tokens=16)
    assert cut.status == "completed"
