"""Endpoints for whoever runs the server, and for gateways: health, load, versions, metrics, tokens."""

from __future__ import annotations

import time
from importlib.metadata import version as installed_version
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, Strict

from ...scheduler import SPEC_HASH
from ..loop.metrics import CONTENT_TYPE
from ..text.prompts import PromptTooLong
from .errors import APIError, ContextLengthExceeded
from .service import service_of
from .wire.http_io import RequestBody, body_schema, json_response, off_loop, read_body

router = APIRouter()


class TokenizeRequest(RequestBody):
    """Body of POST /tokenize."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Strict()] | None = None
    prompt: Annotated[str, Strict()]
    add_special_tokens: Annotated[bool, Strict()] = True
    return_token_strs: Annotated[bool, Strict()] = False


class DetokenizeRequest(RequestBody):
    """Body of POST /detokenize."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Strict()] | None = None
    tokens: Annotated[list[Annotated[int, Strict(), Field(ge=0, lt=2**31)]], Field(fail_fast=True)]


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(request: Request) -> Response:
    """200 if requests are taken and executed, else 503 with the reason."""
    problem = service_of(request).problem
    if problem is not None:
        raise APIError(503, problem, headers={"retry-after": "5"})
    return json_response({"status": "ok"})


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
async def ready(request: Request) -> Response:
    """200 if requests are taken now, else 503 with the reason."""
    service_of(request).ready()
    return json_response({"status": "ready"})


@router.get("/", include_in_schema=False)
@router.head("/", include_in_schema=False)
async def root() -> Response:
    """Some clients look here whether anybody is at home."""
    return json_response({"server": "tokenspeed"})


@router.get("/version")
async def version() -> Response:
    """The version of the program and of the specification that its scheduler was generated from."""
    return json_response({"version": installed_version("tokenspeed"), "specification": SPEC_HASH})


@router.get("/v1/loads")
async def loads(request: Request) -> Response:
    """How busy the server is, for gateways that balance by load."""
    engine, model = service_of(request).ready()
    snapshot = await engine.snapshot()
    if snapshot is None:
        raise APIError(503, "the scheduler does not answer; try again later", headers={"retry-after": "1"})
    stats = snapshot.stats
    capacity = stats.num_blocks * engine.block_size
    used = stats.held_blocks * engine.block_size
    load = {
        "dp_rank": 0,
        "num_running_reqs": stats.running,
        "num_waiting_reqs": stats.waiting,
        "num_total_reqs": stats.running + stats.waiting,
        "num_used_tokens": used,
        "max_total_num_tokens": capacity,
        "token_usage": used / capacity,
        "cache_hit_rate": stats.prefix_hit_tokens / max(stats.prefix_query_tokens, 1),
    }
    head = {"timestamp": time.time(), "version": installed_version("tokenspeed"), "dp_rank_count": 1}
    return json_response(head | {"model": model.name, "loads": [load]})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    service = service_of(request)
    snapshot = await service.engine.snapshot() if service.engine is not None else None
    return Response(service.metrics.render(snapshot), media_type=CONTENT_TYPE)


@router.post("/tokenize", openapi_extra=body_schema(TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """Text to token ids. Special tokens that are written out become control tokens, as in /v1/completions."""
    service = service_of(request)
    body = await read_body(request, TokenizeRequest)
    model = service.check_model(body.model)
    try:
        model.prompts.check_length(body.prompt, model.max_model_len)
    except PromptTooLong as error:
        raise ContextLengthExceeded(error.tokens, model.max_model_len, "prompt") from None
    tokenizer = model.tokenizer
    ids = await off_loop(
        len(body.prompt), lambda: tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)
    )
    tokens = ids.tolist()
    answer: dict[str, object] = {"count": len(tokens), "max_model_len": model.max_model_len, "tokens": tokens}
    if body.return_token_strs:
        answer["token_strs"] = [tokenizer.backend.id_to_token(token) for token in tokens]
    return json_response(answer)


@router.post("/detokenize", openapi_extra=body_schema(DetokenizeRequest))
async def detokenize(request: Request) -> Response:
    """Token ids to text, special tokens included."""
    service = service_of(request)
    body = await read_body(request, DetokenizeRequest)
    tokenizer = service.check_model(body.model).tokenizer
    ids = np.array(body.tokens, dtype=np.int64)
    if len(ids) and int(ids.max()) >= tokenizer.vocab_size:
        message = f"tokens: {int(ids.max())} is not in the vocabulary (0 to {tokenizer.vocab_size - 1})"
        raise APIError(400, message, param="tokens")
    text = await off_loop(len(ids), lambda: tokenizer.decode(ids, skip_special_tokens=False))
    return json_response({"prompt": text})
