"""Errors in the shape that OpenAI's clients understand: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

CLIENT_CLOSED_REQUEST = 499  # nginx's number for it; nobody reads the response

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}
_brief = reprlib.Repr()  # what a client sent may be huge or deep
_brief.maxstring = _brief.maxother = 60
_brief.maxlist = _brief.maxdict = 3
_brief.maxlevel = 2


class APIError(Exception):
    """An error for the client.

    Args:
        status: HTTP status, which also fixes the error's type.
        message: what is wrong and what to do about it.
        param: name of the field that is wrong, such as messages[0].content.
        code: a word for programs, such as context_length_exceeded.
        headers: of the response, such as retry-after.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> bytes:
        """The error as JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})

    def response(self) -> Response:
        """The error as an HTTP response."""
        headers = dict(self.headers or {})
        return Response(self.body(), self.status, headers, media_type="application/json")


def field_name(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "content") as users write it: messages[0].content."""
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def from_validation(error: ValidationError) -> APIError:
    """The first thing that is wrong with a request body."""
    first = error.errors(include_url=False)[0]
    param = field_name(first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "missing":
        return APIError(400, f"{param}: this field is required", param=param, code="missing_required_parameter")
    got = "" if first["type"] == "value_error" else f"; got {_brief.repr(first['input'])}"
    return APIError(400, f"{param or 'body'}: {message}{got}", param=param, code="invalid_value")


def install_error_handlers(app: FastAPI) -> None:
    """Make every error that leaves `app` OpenAI-shaped, those of the framework too."""

    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)
        return error.response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase.lower()
        message = f"{request.method} {request.url.path}: {phrase}"
        return APIError(error.status_code, message, headers=error.headers).response()

    async def nobody_there(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def defect(_: Request, __: Exception) -> Response:
        return APIError(500, "the server failed to handle this request; its log has the details").response()

    app.add_exception_handler(APIError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, nobody_there)
    app.add_exception_handler(Exception, defect)
