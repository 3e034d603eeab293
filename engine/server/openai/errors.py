"""Errors in the shape that OpenAI's clients understand: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from ..errors import APIError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}


def error_body(error: APIError) -> tuple[int, dict[str, Any]]:
    """Status and body of an error."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return error.status, {"error": body}
