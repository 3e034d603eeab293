"""Errors for clients, before any protocol gives them its own shape."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

from pydantic import ValidationError

_brief = reprlib.Repr()  # what a client sent may be huge or deep
_brief.maxstring = _brief.maxother = 60
_brief.maxlist = _brief.maxdict = 3
_brief.maxlevel = 2


class APIError(Exception):
    """An error for the client; the protocol of the request decides how it is written.

    Args:
        status: HTTP status.
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


class ContextLengthExceeded(APIError):
    """The prompt leaves no room for output. `source` names the field that it came from."""

    def __init__(self, prompt_tokens: int, max_model_len: int, source: str) -> None:
        message = (
            f"{source}: the prompt has {prompt_tokens} tokens, but this model takes {max_model_len} tokens in all, of "
            "which at least one is for the output; shorten it"
        )
        super().__init__(400, message, param=source, code="context_length_exceeded")
        self.prompt_tokens = prompt_tokens
        self.max_model_len = max_model_len


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
