"""What a folder of an HTTP protocol gives to the server: its endpoints, and how it writes an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .errors import APIError

CLIENT_CLOSED_REQUEST = 499  # nginx's number for it; nobody reads the response


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to speak to the server over HTTP."""

    name: str
    router: APIRouter
    error: Callable[[APIError], tuple[int, dict[str, Any]]]
    """Status and body of an error."""

    def error_response(self, error: APIError) -> Response:
        """The error as an HTTP response."""
        status, body = self.error(error)
        return Response(orjson.dumps(body), status, dict(error.headers or {}), media_type="application/json")


_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "A field is wrong, or the prompt does not fit."},
    401: {"description": "The API key is missing or wrong."},
    404: {"description": "The model is not served here."},
    413: {"description": "The body is too large."},
    415: {"description": "The body is not JSON."},
    429: {"description": "Too many requests wait."},
    500: {"description": "The model failed while it ran the request."},
    503: {"description": "The server is loading, shutting down or has failed."},
    529: {"description": "As 429 and 503, in Anthropic's protocol."},
}


def _protocol_of(protocols: Sequence[Protocol], path: str) -> Protocol:
    """The protocol that the path, or the one above it, belongs to."""
    for protocol in protocols:
        for route in protocol.router.routes:
            own = getattr(route, "path", "").partition("{")[0].rstrip("/")
            if own and (path == own or path.startswith(own + "/")):
                return protocol
    return protocols[0]


def refusal(protocols: Sequence[Protocol], path: str, error: APIError) -> Response:
    """An error for a request to `path` that no endpoint has seen."""
    return _protocol_of(protocols, path).error_response(error)


def install(app: FastAPI, protocols: Sequence[Protocol]) -> None:
    """Add the endpoints of all protocols, and write every error that leaves `app` in the shape of its protocol.

    Errors of paths that belong to no protocol are written by the first one.
    """
    for protocol in protocols:
        app.include_router(protocol.router, responses=_ERRORS)

    def protocol_of(request: Request) -> Protocol:
        return _protocol_of(protocols, request.url.path)

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)
        return protocol_of(request).error_response(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase.lower()
        message = f"{request.method} {request.url.path}: {phrase}"
        return protocol_of(request).error_response(APIError(error.status_code, message, headers=error.headers))

    async def nobody_there(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def defect(request: Request, _: Exception) -> Response:
        error = APIError(500, "the server failed to handle this request; its log has the details")
        return protocol_of(request).error_response(error)

    app.add_exception_handler(APIError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, nobody_there)
    app.add_exception_handler(Exception, defect)
