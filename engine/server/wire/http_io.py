"""The two ends of an HTTP call: a JSON body checked before anything else happens, and a stream of events.

Whatever may take long with a large body (parsing, validating, rendering, encoding) runs on a worker thread, so that one
client cannot stop the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ..errors import APIError, from_validation

MAX_BODY_BYTES: Final = 32 * 2**20
MAX_CONTAINERS: Final = 100_000
"""Objects and arrays in one body. Each costs far more memory than its two bytes."""
BODY_SECONDS: Final = 60.0
"""A body must have arrived after so many seconds."""
MAX_UNREAD_BYTES: Final = 256 * 2**20
"""Bytes of all bodies that are still arriving; more are refused."""
DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream."""
HEARTBEAT: Final = b": still working\n\n"
"""A comment, which clients skip."""
_INLINE_BYTES: Final = 4096  # smaller bodies are handled where they arrive: a thread would take longer

_workers: Final = ThreadPoolExecutor(2, thread_name_prefix="http-worker")
_arriving = 0


class RequestBody(BaseModel):
    """A body that `read_body` reads."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    ignored: ClassVar[tuple[str, ...]] = ()
    """Fields that are taken and have no effect on the answer."""
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields that are not supported, with the values that are taken because they ask for nothing."""


Body = TypeVar("Body", bound=RequestBody)
Result = TypeVar("Result")


async def read_body(request: Request, model: type[Body]) -> Body:
    """The request's JSON body.

    Raises APIError: 400 naming the field, 408 if it does not arrive in time, 413 if it is too large, 415 if it is not
    JSON, 429 if too much is arriving at once.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise APIError(415, f"content-type {media_type[:80]!r} is not supported; send application/json")
    body = await _receive(request)
    return await off_loop(len(body), lambda: _parse(body, model))


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """`work()`, on a worker thread if `size` (bytes or characters that it looks at) is large."""
    if size <= _INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_workers, work)


async def _receive(request: Request) -> bytes:
    global _arriving
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                _arriving += len(chunk)
                if len(body) > MAX_BODY_BYTES:
                    raise APIError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", code="request_too_large")
                if _arriving > MAX_UNREAD_BYTES:
                    message = "too many large bodies are arriving; try again later"
                    raise APIError(429, message, code="overloaded", headers={"retry-after": "1"})
    except TimeoutError:
        message = f"the body did not arrive within {BODY_SECONDS:g} s"
        raise APIError(408, message, headers={"connection": "close"}) from None
    finally:
        _arriving -= len(body)
    return bytes(body)


def _parse(body: bytes, model: type[Body]) -> Body:
    if body.count(b"{") + body.count(b"[") > MAX_CONTAINERS and containers(body) > MAX_CONTAINERS:
        message = f"the body has more than {MAX_CONTAINERS} objects and arrays; send fewer"
        raise APIError(400, message, code="too_many_values")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise APIError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise APIError(400, f"the body must be a JSON object, not {type(content).__name__}", code="invalid_json")
    for name in sorted(model.refused.keys() & content.keys()):
        if not _asks_for_nothing(content[name], model.refused[name]):
            raise APIError(400, f"{name}: this is not supported; leave it out", param=name, code="unsupported_field")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise from_validation(error) from None


def _asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(allowed) and value == allowed for allowed in neutral) or (
        isinstance(value, float) and value in [float(n) for n in neutral if type(n) is int]
    )


def containers(body: bytes) -> int:
    """Objects and arrays in a JSON text, those within its strings not counted."""
    text = np.frombuffer(body, dtype=np.uint8)
    places = np.arange(len(text))
    # A character is escaped if an odd run of backslashes ends before it.
    plain = np.maximum.accumulate(np.where(text != ord("\\"), places, -1))
    escaped = np.concatenate(([False], (places - plain)[:-1] % 2 == 1))
    inside = np.cumsum((text == ord('"')) & ~escaped) % 2 == 1
    return int(np.count_nonzero(((text == ord("{")) | (text == ord("["))) & ~inside))


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI page says about a body that `read_body` reads: a schema without references."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inline(schema, definitions)}}}
    }


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline(item, definitions) for key, item in schema.items()}


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


def event(content: dict[str, Any], name: str | None = None) -> bytes:
    """`content` as one server-sent event, with its name if it has one."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(content) + b"\n\n"


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
        if scope["http_version"] == "1.0":
            # Such a client does not know chunks, and the end of the connection is no end of an event stream to it.
            self._on_end()
            reason = b'{"error": {"message": "a stream needs HTTP/1.1", "type": "invalid_request_error"}}'
            await Response(reason, 505, media_type="application/json")(scope, receive, send)
            return
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
