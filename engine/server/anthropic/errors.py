"""Errors in Anthropic's envelope: {"type": "error", "error": {"type", "message"}}."""

from __future__ import annotations

from typing import Any

from ..errors import APIError, ContextLengthExceeded

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def error_body(error: APIError) -> tuple[int, dict[str, Any]]:
    """Status and body of an error. A server that is busy or not ready is overloaded: clients try again then."""
    busy = error.code == "overloaded" or error.status == 503
    status = 529 if busy else error.status
    message = error.message
    if isinstance(error, ContextLengthExceeded):
        # These words make agents compact their conversation.
        message = f"prompt is too long: {error.prompt_tokens} tokens > {error.max_model_len - 1} maximum"
    body = {"type": _TYPES.get(status, "invalid_request_error"), "message": message}
    return status, {"type": "error", "error": body}
