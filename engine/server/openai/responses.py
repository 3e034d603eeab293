"""POST /v1/responses."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...loop.generation import Generation, GenerationFailed
from ...text.replies.events import CallArguments, CallStarted, ReplyEvent, Thinking, Words
from ..conversation import Finished, Replies, call_id, chat_params, chat_prompt
from ..service import HEARTBEAT_SECONDS, failure, service_of
from ..wire.http_io import (
    HEARTBEAT,
    EventStream,
    body_schema,
    event,
    json_response,
    off_loop,
    read_body,
    while_connected,
)
from .errors import error_body
from .responses_bodies import ResponsesRequest, conversation

router = APIRouter()


@router.post("/v1/responses", openapi_extra=body_schema(ResponsesRequest))
async def responses(request: Request) -> Response:
    """Answer, in one piece or as a stream of events. Nothing is stored: each request brings its whole history."""
    service = service_of(request)
    service.ready()
    body = await read_body(request, ResponsesRequest)
    model = service.check_model(body.model)
    talk = conversation(body, model)
    size = sum(len(message.get("content") or "") for message in talk.messages) + 1000 * len(talk.messages)
    prompt = await off_loop(size, lambda: chat_prompt(model, talk))
    params = chat_params(model, talk, body.sampling_params())
    generation = await service.generate([prompt.ids], [params], max_tokens=body.max_output_tokens, source="input")
    replies = Replies(model, talk, prompt, generation)
    answer = _Answer(
        {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": body.model or model.name,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "tool_choice": body.model_dump(include={"tool_choice"})["tool_choice"] or "auto",
            "tools": [tool["function"] | {"type": "function", "strict": False} for tool in talk.tools],
            "text": {"format": {"type": "text"}},
            "truncation": "disabled",
            "output": [],
            "usage": None,
        }
    )
    if body.stream:
        return EventStream(_events(answer, generation, replies), on_end=generation.abandon)
    try:
        await while_connected(request.receive, _whole(answer, generation, replies))
    except GenerationFailed as error:
        raise failure(error) from None
    finally:
        generation.abandon()
    return json_response(answer.response)


class _Answer:
    """A response that is being put together, and the events that tell of it."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self._sequence = 0
        self._item: dict[str, Any] | None = None

    def event(self, kind: str, **content: Any) -> bytes:
        """One event, with its number."""
        self._sequence += 1
        return event({"type": kind, "sequence_number": self._sequence - 1, **content}, kind)

    @property
    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self.response["output"])}

    def add(self, item: ReplyEvent) -> Iterator[bytes]:
        """Take in what the model said."""
        kind = {Words: "message", Thinking: "reasoning", CallStarted: "function_call"}.get(type(item))
        if isinstance(item, CallStarted) or (kind is not None and (self._item is None or self._item["type"] != kind)):
            yield from self.close()
            yield from self._open(item)
        assert self._item is not None
        match item:
            case Words(text):
                self._item["content"][0]["text"] += text
                yield self.event("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=[])
            case Thinking(text):
                self._item["content"][0]["text"] += text
                yield self.event("response.reasoning_text.delta", **self._place, content_index=0, delta=text)
            case CallArguments(text=text):
                self._item["arguments"] += text
                yield self.event("response.function_call_arguments.delta", **self._place, delta=text)

    def _open(self, item: ReplyEvent) -> Iterator[bytes]:
        unique = uuid.uuid4().hex
        if isinstance(item, CallStarted):
            self._item = {"id": f"fc_{unique}", "type": "function_call", "status": "in_progress",
                          "call_id": call_id(item), "name": item.name, "arguments": ""}  # fmt: skip
        elif isinstance(item, Thinking):
            self._item = {"id": f"rs_{unique}", "type": "reasoning", "summary": [], "content": []}
        else:
            self._item = {"id": f"msg_{unique}", "type": "message", "status": "in_progress", "role": "assistant",
                          "content": []}  # fmt: skip
        index = len(self.response["output"])
        yield self.event("response.output_item.added", output_index=index, item=self._item)
        if isinstance(item, Words):
            self._item["content"] = [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
            part = self._item["content"][0]
            yield self.event("response.content_part.added", **self._place, content_index=0, part=part)
        elif isinstance(item, Thinking):
            self._item["content"] = [{"type": "reasoning_text", "text": ""}]

    def close(self) -> Iterator[bytes]:
        """End the item that is open, if one is."""
        if self._item is None:
            return
        item, place = self._item, self._place
        match item["type"]:
            case "message":
                part = item["content"][0]
                yield self.event("response.output_text.done", **place, content_index=0, text=part["text"], logprobs=[])
                yield self.event("response.content_part.done", **place, content_index=0, part=part)
            case "reasoning":
                text = item["content"][0]["text"]
                yield self.event("response.reasoning_text.done", **place, content_index=0, text=text)
            case "function_call":
                yield self.event(
                    "response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"]
                )
        if "status" in item:
            item["status"] = "completed"
        yield self.event("response.output_item.done", output_index=place["output_index"], item=item)
        self.response["output"].append(item)
        self._item = None

    def finish(self, end: Finished, generation: Generation) -> str:
        """Write how it ended into the response; returns the name of the last event."""
        [choice] = generation.choices
        self.response["usage"] = {
            "input_tokens": choice.prompt_tokens,
            "input_tokens_details": {"cached_tokens": choice.cached_tokens},
            "output_tokens": choice.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": choice.prompt_tokens + choice.completion_tokens,
        }
        if end.reason == "length":
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
            return "response.incomplete"
        self.response["status"] = "completed"
        return "response.completed"


async def _whole(answer: _Answer, generation: Generation, replies: Replies) -> None:
    async for news in replies.news():
        for _, events, end in news:
            for item in events:
                list(answer.add(item))
            if end is not None:
                list(answer.close())
                answer.finish(end, generation)


async def _events(answer: _Answer, generation: Generation, replies: Replies) -> AsyncGenerator[bytes, None]:
    yield answer.event("response.created", response=answer.response)
    yield answer.event("response.in_progress", response=answer.response)
    try:
        async for news in replies.news(heartbeat=HEARTBEAT_SECONDS):
            if not news:
                yield HEARTBEAT
            out: list[bytes] = []
            for _, events, end in news:
                for item in events:
                    out += answer.add(item)
                if end is not None:
                    out += answer.close()
                    kind = answer.finish(end, generation)
                    out.append(answer.event(kind, response=answer.response))
            if out:
                yield b"".join(out)
    except GenerationFailed as error:
        body = error_body(failure(error))[1]["error"]
        answer.response |= {"status": "failed", "error": {"code": "server_error", "message": body["message"]}}
        yield answer.event("response.failed", response=answer.response)
