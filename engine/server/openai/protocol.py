"""OpenAI's protocol, as one value."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from ..protocol import Protocol
from . import chat, completions, models, responses
from .errors import error_body

_router = APIRouter()
for _part in (chat.router, completions.router, responses.router, models.router):
    _router.include_router(_part)

OPENAI: Final = Protocol("openai", _router, error_body)
"""Chat and text completions, responses, and the list of models."""
