"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...loop.generation import Generation, GenerationFailed
from ...served_model import ServedModel
from ...text.chat_messages import Message, RawObject
from ...text.replies.events import CallArguments, CallStarted, ReplyEvent, Thinking, Words
from ..conversation import Conversation, Finished, Replies, ToolChoice, call_id, chat_params, chat_prompt
from ..errors import APIError
from ..service import HEARTBEAT_SECONDS, SYSTEM_FINGERPRINT, failure, service_of
from ..wire.http_io import (
    DONE,
    HEARTBEAT,
    EventStream,
    body_schema,
    event,
    json_response,
    off_loop,
    read_body,
    while_connected,
)
from .bodies import ChatCompletionRequest, NamedTool, usage
from .bodies import Message as MessageBody
from .errors import error_body

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatCompletionRequest))
async def chat_completions(request: Request) -> Response:
    """Answer a chat, in one piece or as a stream of events."""
    service = service_of(request)
    service.ready()
    body = await read_body(request, ChatCompletionRequest)
    model = service.check_model(body.model)
    talk = conversation(body, model)
    size = sum(len(message.content or "") for message in body.messages) + 1000 * len(body.messages)
    prompt = await off_loop(size, lambda: chat_prompt(model, talk))
    params = chat_params(model, talk, body.sampling_params())
    generation = await service.generate(
        [prompt.ids], body.choices(params), max_tokens=body.output_limit, source="messages"
    )
    replies = Replies(model, talk, prompt, generation)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": body.model or model.name,
        "system_fingerprint": SYSTEM_FINGERPRINT,
    }
    if body.stream:
        return EventStream(_events(head, generation, replies, body.include_usage), on_end=generation.abandon)
    try:
        choices = await while_connected(request.receive, _choices(generation, replies))
    except GenerationFailed as error:
        raise failure(error) from None
    finally:
        generation.abandon()
    return json_response(head | {"choices": choices, "usage": usage(generation, len(choices))})


def conversation(body: ChatCompletionRequest, model: ServedModel) -> Conversation:
    """The body's chat. Raises APIError 400 if its fields contradict each other."""
    if body.continue_final_message:
        if body.add_generation_prompt:
            message = "continue_final_message: this excludes add_generation_prompt; give one of them"
            raise APIError(400, message, param="continue_final_message")
        if body.messages[-1].role != "assistant":
            message = "continue_final_message: the last message is not an assistant's"
            raise APIError(400, message, param="continue_final_message")
    variables = dict(body.chat_template_kwargs or {})
    known = model.chat_template.variables if model.chat_template is not None else frozenset()
    if body.reasoning_effort is not None and "reasoning_effort" in known:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    if body.reasoning_effort == "none" and "enable_thinking" in known:
        variables.setdefault("enable_thinking", False)
    tools = [tool.model_dump(exclude_unset=True) | {"type": "function"} for tool in body.tools or []]
    for tool in tools:
        tool["function"].pop("strict", None)
    choice = ToolChoice("none" if not tools else "auto")
    if isinstance(body.tool_choice, NamedTool):
        choice = ToolChoice("named", body.tool_choice.function.name)
    elif body.tool_choice is not None and tools:
        choice = ToolChoice(body.tool_choice)
    return Conversation(
        [_message(message) for message in body.messages],
        source="messages",
        tools=tools,
        choice=choice,
        parallel_calls=body.parallel_tool_calls is not False,
        continue_final=bool(body.continue_final_message),
        open_turn=body.add_generation_prompt is not False,
        variables=variables,
    )


def _message(message: MessageBody) -> Message:
    fields = message.model_dump(exclude_unset=True)
    # A template that joins contents needs a string; "developer" is a newer word for "system" that few know.
    fields["content"] = message.content or ""
    fields["role"] = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    if "reasoning" in fields and "reasoning_content" not in fields:
        fields["reasoning_content"] = fields.pop("reasoning")
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return fields


def _arguments(arguments: str | dict[str, Any]) -> Any:
    """The object, which templates write as it was written by the model; text that is no object stays text."""
    if isinstance(arguments, dict):
        return arguments
    parsed = RawObject.parse(arguments if arguments.strip() else "{}")
    return arguments if parsed is None else parsed


async def _choices(generation: Generation, replies: Replies) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "reasoning_content": ""}
        for _ in generation.choices
    ]
    reasons: list[str | None] = [None] * len(messages)
    async for news in replies.news():
        for index, events, end in news:
            message = messages[index]
            for item in events:
                match item:
                    case Words(text):
                        message["content"] += text
                    case Thinking(text):
                        message["reasoning_content"] += text
                    case CallStarted(name=name):
                        function = {"name": name, "arguments": ""}
                        message["tool_calls"].append({"id": call_id(item), "type": "function", "function": function})
                    case CallArguments(text=text):
                        message["tool_calls"][-1]["function"]["arguments"] += text
            if end is not None:
                reasons[index] = _reason(end)
    for message in messages:
        if not message["reasoning_content"]:
            del message["reasoning_content"]
        if not message["tool_calls"]:
            del message["tool_calls"]
        elif not message["content"]:
            message["content"] = None
    return [_choice(i, message=message, finish_reason=reasons[i]) for i, message in enumerate(messages)]


async def _events(
    head: dict[str, Any], generation: Generation, replies: Replies, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    extra: dict[str, Any] = {"usage": None} if include_usage else {}
    opened: set[int] = set()
    try:
        async for news in replies.news(heartbeat=HEARTBEAT_SECONDS):
            if not news:
                yield HEARTBEAT
            chunks = []
            for index, events, end in news:
                if index not in opened:
                    opened.add(index)
                    chunks.append(_choice(index, delta={"role": "assistant", "content": ""}))
                chunks += [_choice(index, delta=_delta(item)) for item in events]
                if end is not None:
                    chunks.append(_choice(index, delta={}, finish_reason=_reason(end)))
            if chunks:
                yield b"".join(event(head | {"choices": [chunk]} | extra) for chunk in chunks)
    except GenerationFailed as error:
        yield event(error_body(failure(error))[1])
    else:
        if include_usage:
            yield event(head | {"choices": [], "usage": usage(generation, len(generation.choices))})
    yield DONE


def _delta(item: ReplyEvent) -> dict[str, Any]:
    match item:
        case Words(text):
            return {"content": text}
        case Thinking(text):
            return {"reasoning_content": text}
        case CallStarted(index, name):
            call = {"index": index, "id": call_id(item), "type": "function"}
            return {"tool_calls": [call | {"function": {"name": name, "arguments": ""}}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _reason(end: Finished) -> str:
    return "tool_calls" if end.calls and end.reason == "stop" else end.reason


def _choice(index: int, *, finish_reason: str | None = None, **content: Any) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
