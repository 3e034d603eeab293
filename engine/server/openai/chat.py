"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from ...loop.generation import Generation, GenerationFailed
from ...served_model import ServedModel
from ...text.chat_template import ChatTemplateError
from ..errors import APIError
from ..http_io import DONE, HEARTBEAT, EventStream, body_schema, event, json_response, read_body, while_connected
from ..service import HEARTBEAT_SECONDS, SYSTEM_FINGERPRINT, encode, failure, service_of
from .bodies import ChatCompletionRequest, usage
from .errors import error_body

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatCompletionRequest))
async def chat_completions(request: Request) -> Response:
    """Answer a chat, in one piece or as a stream of events."""
    service = service_of(request)
    service.ready()
    body = await read_body(request, ChatCompletionRequest)
    model = service.check_model(body.model)
    prompt = await _prompt(model, body)
    generation = await service.generate(
        [prompt], body.sampling_params(), max_tokens=body.output_limit, source="messages"
    )
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": SYSTEM_FINGERPRINT,
    }
    if body.stream:
        return EventStream(_events(head, generation, body.include_usage), on_end=generation.abandon)
    try:
        [text] = await while_connected(request.receive, generation.texts())
    except GenerationFailed as error:
        raise failure(error) from None
    finally:
        generation.abandon()
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = _choice(message=message, finish_reason=generation.choices[0].finish_reason)
    return json_response(head | {"choices": [choice], "usage": usage(generation)})


async def _prompt(model: ServedModel, body: ChatCompletionRequest) -> NDArray[np.int32]:
    template = model.chat_template
    if template is None:
        raise APIError(400, f"model {model.name!r} has no chat template; use /v1/completions", param="model")
    messages = []
    for message in body.messages:
        fields = message.model_dump(exclude_unset=True)
        # A template that joins contents needs a string; "developer" is a newer word for "system" that few know.
        fields["content"] = message.content or ""
        fields["role"] = "system" if message.role == "developer" else message.role
        messages.append(fields)
    try:
        text = template.render(messages)
    except (ChatTemplateError, RecursionError) as error:
        raise APIError(400, f"messages: {error}", param="messages", code="invalid_messages") from None
    return await encode(text, lambda text: model.tokenizer.encode(text, add_special_tokens=False))


async def _events(head: dict[str, Any], generation: Generation, include_usage: bool) -> AsyncGenerator[bytes, None]:
    extra: dict[str, Any] = {"usage": None} if include_usage else {}
    opened = False
    try:
        async for deltas in generation.deltas(heartbeat=HEARTBEAT_SECONDS):
            if not deltas:
                yield HEARTBEAT
            for delta in deltas:
                if not opened:
                    opened = True
                    yield event(head | {"choices": [_choice(delta={"role": "assistant", "content": ""})]} | extra)
                if delta.text:
                    yield event(head | {"choices": [_choice(delta={"content": delta.text})]} | extra)
                if delta.finish_reason is not None:
                    yield event(head | {"choices": [_choice(delta={}, finish_reason=delta.finish_reason)]} | extra)
    except GenerationFailed as error:
        yield event(error_body(failure(error))[1])
    else:
        if include_usage:
            yield event(head | {"choices": [], "usage": usage(generation)})
    yield DONE


def _choice(*, finish_reason: str | None = None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
