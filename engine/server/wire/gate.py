"""What every request passes before any endpoint sees it: its id, its key, and the access log."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import APIError

access = logging.getLogger("tokenspeed.access")

OPEN_PATHS: Final = frozenset({"/", "/health", "/ready", "/ping", "/version", "/metrics"})
"""Paths that need no key: they say nothing of what anybody asked."""
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


def read_keys(path: Path) -> list[str]:
    """API keys, one a line; empty lines and those that begin with # are left out.

    Raises ValueError if there is none, OSError if the file cannot be read.
    """
    lines = [line.strip() for line in path.read_text().splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"api_key_file={path} has no keys; write one a line")
    return keys


class Gate:
    """Gives requests their id, asks for a key, and logs what was answered. Prompts and keys are never logged.

    Args:
        app: what is behind the gate.
        keys: API keys, of which a request must bring one; none to let everybody in.
        refuse: writes an error in the shape of the protocol that the path belongs to.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], refuse: Callable[[str, APIError], Response]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ids = [(b"x-request-id", request_id), (b"request-id", request_id)]
                message = {**message, "headers": [*message.get("headers", ()), *ids]}
            await send(message)

        try:
            if self._keys and scope["path"] not in OPEN_PATHS and not self._has_key(headers):
                message = "a key is missing or wrong; send it as 'authorization: Bearer KEY' or 'x-api-key: KEY'"
                answer: Awaitable[None] = self._refuse(scope["path"], APIError(401, message, code="invalid_api_key"))(
                    scope, receive, send_with_id
                )
            else:
                answer = self._app(scope, receive, send_with_id)
            await answer
        finally:
            level = logging.DEBUG if status == 200 and scope["path"] in OPEN_PATHS else logging.INFO
            access.log(
                level,
                "request_id=%s method=%s path=%s status=%s seconds=%.3f",
                request_id.decode(),
                scope["method"],
                scope["raw_path"][:200].decode("ascii", "replace"),
                status or "-",
                time.monotonic() - start,
            )

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        # All are compared, in constant time, so that the answer's delay says nothing.
        return sum([hmac.compare_digest(given, key) for key in self._keys]) > 0
