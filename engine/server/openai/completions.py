"""POST /v1/completions."""

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
from ...text.prompts import PromptTooLong
from ..errors import APIError, ContextLengthExceeded
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
from .bodies import CompletionRequest, usage
from .errors import error_body

router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def completions(request: Request) -> Response:
    """Continue one or more prompts, in one piece or as a stream of events."""
    service = service_of(request)
    service.ready()
    body = await read_body(request, CompletionRequest)
    model = service.check_model(body.model)
    size = sum(map(len, body.prompt))
    prompts = await off_loop(size, lambda: [_prompt(model, prompt) for prompt in body.prompt])
    generation = await service.generate(
        prompts, body.choices(body.sampling_params()), max_tokens=body.output_limit, source="prompt"
    )
    choices = body.n or 1
    echoes = [
        (prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt)) if body.echo else ""
        for prompt in body.prompt
        for _ in range(choices)
    ]
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or model.name,
        "system_fingerprint": SYSTEM_FINGERPRINT,
    }
    if body.stream:
        return EventStream(_events(head, generation, echoes, choices, body.include_usage), on_end=generation.abandon)
    try:
        texts = await while_connected(request.receive, generation.texts())
    except GenerationFailed as error:
        raise failure(error) from None
    finally:
        generation.abandon()
    answers = [
        _choice(i, echo + text, choice.finish_reason)
        for i, (echo, text, choice) in enumerate(zip(echoes, texts, generation.choices, strict=True))
    ]
    return json_response(head | {"choices": answers, "usage": usage(generation, choices)})


def _prompt(model: ServedModel, prompt: str | list[int]) -> NDArray[np.int32]:
    """Special tokens in the text become control tokens: a completion's prompt is the client's from end to end."""
    if isinstance(prompt, str):
        try:
            model.prompts.check_length(prompt, model.max_model_len)
        except PromptTooLong as error:
            raise ContextLengthExceeded(error.tokens, model.max_model_len, "prompt") from None
        return model.tokenizer.encode(prompt)
    size = model.tokenizer.vocab_size
    for token in prompt:
        if not 0 <= token < size:
            raise APIError(400, f"prompt: token id {token} is not in the vocabulary (0 to {size - 1})", param="prompt")
    return np.array(prompt, dtype=np.int32)


async def _events(
    head: dict[str, Any], generation: Generation, echoes: list[str], choices: int, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    extra: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        async for deltas in generation.deltas(heartbeat=HEARTBEAT_SECONDS):
            if not deltas:
                yield HEARTBEAT
            chunks = []
            for delta in deltas:
                text, echoes[delta.index] = echoes[delta.index] + delta.text, ""
                chunks.append(event(head | {"choices": [_choice(delta.index, text, delta.finish_reason)]} | extra))
            if chunks:
                yield b"".join(chunks)
    except GenerationFailed as error:
        yield event(error_body(failure(error))[1])
    else:
        if include_usage:
            yield event(head | {"choices": [], "usage": usage(generation, choices)})
    yield DONE


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
