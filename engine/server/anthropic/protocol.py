"""Anthropic's protocol, as one value."""

from __future__ import annotations

from typing import Final

from ..protocol import Protocol
from .errors import error_body
from .messages import router

ANTHROPIC: Final = Protocol("anthropic", router, error_body)
"""Messages, and counting their tokens."""
