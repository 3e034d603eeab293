"""The two ends of an HTTP call: a JSON body checked before anything else happens, and a stream of events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from .errors import APIError, from_validation

MAX_BODY_BYTES: Final = 32 * 2**20
DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream."""
HEARTBEAT: Final = b": still working\n\n"
"""A comment, which clients skip."""

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")


async def read_body(request: Request, model: type[Body]) -> Body:
    """The request's JSON body. Raises APIError: 400 naming the field, 413 if it is too large, 415 if it is not JSON."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise APIError(415, f"content-type {media_type[:80]!r} is not supported; send application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise APIError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", code="request_too_large")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise APIError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise APIError(400, f"the body must be a JSON object, not {type(content).__name__}", code="invalid_json")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise from_validation(error) from None


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI page says about a body that `read_body` reads."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client disconnects. Raises ClientDisconnect then.

    `receive` is the ASGI channel of a request whose body has been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def json_response(content: dict[str, Any]) -> Response:
    """`content` as a JSON response with status 200."""
    return Response(orjson.dumps(content), media_type="application/json")


def event(content: dict[str, Any]) -> bytes:
    """`content` as one server-sent event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


class EventStream(Response):
    """Server-sent events (text/event-stream) until `events` ends or the client disconnects; then `on_end` is called."""

    def __init__(self, events: AsyncGenerator[bytes, None], on_end: Callable[[], None]) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            await while_connected(receive, self._send(send))
        except (ClientDisconnect, OSError):
            pass  # nobody is there to be told
        finally:
            self._on_end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
