"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from ...loop.generation import Generation, GenerationFailed
from ...text.replies.events import CallArguments, CallStarted, ReplyEvent, Thinking, Words
from ..conversation import Conversation, Finished, Replies, call_id, chat_params, chat_prompt
from ..service import HEARTBEAT_SECONDS, failure, service_of
from ..wire.http_io import EventStream, body_schema, event, json_response, off_loop, read_body, while_connected
from .bodies import CountTokensRequest, MessagesRequest
from .errors import error_body
from .translation import conversation

router = APIRouter()
_PING = event({"type": "ping"}, "ping")


@router.post("/v1/messages/count_tokens", openapi_extra=body_schema(CountTokensRequest))
async def count_tokens(request: Request) -> Response:
    """How many tokens the prompt of a message would have."""
    service = service_of(request)
    service.ready()
    body = await read_body(request, CountTokensRequest)
    model = service.check_model(body.model)
    prompt = await off_loop(_size(talk := conversation(body, model)), lambda: chat_prompt(model, talk))
    return json_response({"input_tokens": len(prompt.ids)})


@router.post("/v1/messages", openapi_extra=body_schema(MessagesRequest))
async def messages(request: Request) -> Response:
    """Answer a message, in one piece or as a stream of events."""
    service = service_of(request)
    service.ready()
    body = await read_body(request, MessagesRequest)
    model = service.check_model(body.model)
    talk = conversation(body, model)
    prompt = await off_loop(_size(talk), lambda: chat_prompt(model, talk))
    params = chat_params(model, talk, body.sampling_params())
    generation = await service.generate([prompt.ids], [params], max_tokens=body.max_tokens, source="messages")
    replies = Replies(model, talk, prompt, generation)
    head = {"id": f"msg_{uuid.uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": body.model}
    if body.stream:
        return EventStream(_events(head, generation, replies), on_end=generation.abandon)
    try:
        blocks, end = await while_connected(request.receive, _whole(replies))
    except GenerationFailed as error:
        raise failure(error) from None
    finally:
        generation.abandon()
    return json_response(head | {"content": blocks, "usage": _usage(generation)} | _stop(end))


def _size(talk: Conversation) -> int:
    return sum(len(message.get("content") or "") for message in talk.messages) + 1000 * len(talk.messages)


async def _whole(replies: Replies) -> tuple[list[dict[str, Any]], Finished]:
    blocks: list[dict[str, Any]] = []
    end = None
    async for news in replies.news():
        for _, events, finished in news:
            end = finished or end
            for item in events:
                if _begins(item, blocks[-1] if blocks else None):
                    blocks.append(_block(item))
                match item:
                    case Words(text):
                        blocks[-1]["text"] += text
                    case Thinking(text):
                        blocks[-1]["thinking"] += text
                    case CallArguments(text=text):
                        blocks[-1]["input"] = blocks[-1]["input"] + text if blocks[-1]["input"] else text
    assert end is not None
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = _object(block["input"] or "{}")
    return blocks, end


def _begins(item: ReplyEvent, block: dict[str, Any] | None) -> bool:
    """Whether the event opens a block of its own."""
    kind = block["type"] if block is not None else None
    match item:
        case Words():
            return kind != "text"
        case Thinking():
            return kind != "thinking"
        case CallStarted():
            return True
    return False


def _block(item: ReplyEvent) -> dict[str, Any]:
    """The block that the event opens, without what it says."""
    match item:
        case CallStarted(name=name):
            return {"type": "tool_use", "id": call_id(item), "name": name, "input": {}}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _object(text: str) -> dict[str, Any]:
    """The arguments; where the model wrote no JSON object, its words under a name of their own."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"unparsed": text}


async def _events(head: dict[str, Any], generation: Generation, replies: Replies) -> AsyncGenerator[bytes, None]:
    opened = False
    block: dict[str, Any] | None = None
    index = -1
    try:
        async for news in replies.news(heartbeat=HEARTBEAT_SECONDS):
            if not news:
                yield _PING
                continue
            out = []
            if not opened:
                opened = True
                start = head | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(generation)}
                out += [event({"type": "message_start", "message": start}, "message_start"), _PING]
            for _, events, end in news:
                for item in events:
                    if _begins(item, block):
                        out += _closed(index, block)
                        block, index = _block(item), index + 1
                        opening = {"type": "content_block_start", "index": index, "content_block": block}
                        out.append(event(opening, "content_block_start"))
                    if (delta := _delta(item)) is not None:
                        content = {"type": "content_block_delta", "index": index, "delta": delta}
                        out.append(event(content, "content_block_delta"))
                if end is not None:
                    out += _closed(index, block)
                    last = {"type": "message_delta", "delta": _stop(end), "usage": _usage(generation)}
                    out += [event(last, "message_delta"), event({"type": "message_stop"}, "message_stop")]
            if out:
                yield b"".join(out)
    except GenerationFailed as error:
        yield event(error_body(failure(error))[1], "error")


def _closed(index: int, block: dict[str, Any] | None) -> list[bytes]:
    """The end of a block, if one is open. Thinking is signed, with nothing: nobody checks it here."""
    if block is None:
        return []
    signature = {"type": "signature_delta", "signature": ""}
    content = {"type": "content_block_delta", "index": index, "delta": signature}
    signed = [event(content, "content_block_delta")] if block["type"] == "thinking" else []
    return [*signed, event({"type": "content_block_stop", "index": index}, "content_block_stop")]


def _delta(item: ReplyEvent) -> dict[str, Any] | None:
    match item:
        case Words(text):
            return {"type": "text_delta", "text": text}
        case Thinking(text):
            return {"type": "thinking_delta", "thinking": text}
        case CallArguments(text=text):
            return {"type": "input_json_delta", "partial_json": text}
    return None


def _stop(end: Finished) -> dict[str, Any]:
    """Why the message ended. A stop sequence is named; other ends of the turn are not."""
    if end.reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if isinstance(end.stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop}
    return {"stop_reason": "tool_use" if end.calls else "end_turn", "stop_sequence": None}


def _usage(generation: Generation) -> dict[str, int]:
    [choice] = generation.choices
    return {
        "input_tokens": choice.prompt_tokens - choice.cached_tokens,
        "cache_read_input_tokens": choice.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": choice.completion_tokens,
    }
