"""The page of all fields that requests may have: `python -m tokenspeed.engine.server.field_table` writes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .anthropic.bodies import CountTokensRequest, MessagesRequest
from .openai.bodies import ChatCompletionRequest, CompletionRequest
from .openai.responses_bodies import ResponsesRequest
from .operations import DetokenizeRequest, TokenizeRequest
from .wire.http_io import RequestBody

BODIES: Final[tuple[tuple[str, type[RequestBody]], ...]] = (
    ("/v1/chat/completions", ChatCompletionRequest),
    ("/v1/completions", CompletionRequest),
    ("/v1/responses", ResponsesRequest),
    ("/v1/messages", MessagesRequest),
    ("/v1/messages/count_tokens", CountTokensRequest),
    ("/tokenize", TokenizeRequest),
    ("/detokenize", DetokenizeRequest),
)
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "serving-fields.md"


def page() -> str:
    """The page, as Markdown."""
    lines = [
        "<!-- Written by `python -m tokenspeed.engine.server.field_table` from the types of the bodies. -->",
        "# Fields of requests",
        "",
        "A field is taken, has no effect, or is refused with status 400 and its name. What is refused is taken when",
        "its value asks for nothing. Fields that are not in these tables are ignored.",
    ]
    for path, body in BODIES:
        lines += ["", f"## POST {path}", "", "| field | | |", "|---|---|---|", *_rows(body)]
    return "\n".join(lines) + "\n"


def _rows(body: type[RequestBody]) -> Iterator[str]:
    for name, field in body.model_fields.items():
        about = " ".join((field.description or "").split()).replace("|", "\\|")
        yield f"| `{name}` | {'required' if field.is_required() else 'taken'} | {about} |"
    for name in body.ignored:
        if name not in body.model_fields:
            yield f"| `{name}` | no effect | |"
    for name, neutral in body.refused.items():
        if name not in body.model_fields:
            yield f"| `{name}` | refused | unless it is {_words(neutral)} |"


def _words(values: tuple[Any, ...]) -> str:
    words = [f"`{json.dumps(value)}`" for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
