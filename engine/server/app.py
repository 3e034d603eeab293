"""The HTTP server: the protocols that it speaks, and what those who run it need."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fastapi import FastAPI
from starlette.types import ASGIApp

from .anthropic.protocol import ANTHROPIC
from .openai.protocol import OPENAI
from .operations import router
from .protocol import Protocol, install, refusal
from .service import Service
from .wire.gate import Gate

PROTOCOLS: Final[tuple[Protocol, ...]] = (OPENAI, ANTHROPIC)
"""Every protocol that is served; the first one writes the errors of paths that belong to none."""


def create_app(service: Service, api_keys: Collection[str] = ()) -> ASGIApp:
    """The ASGI application. `service` may be given its model later; until then requests are answered with 503.

    `api_keys`: a request must bring one of them, if there are any.
    """
    app = FastAPI(title="TokenSpeed", description="HTTP API of a TokenSpeed server.")
    app.state.service = service
    install(app, PROTOCOLS)
    app.include_router(router)
    return Gate(app, api_keys, lambda path, error: refusal(PROTOCOLS, path, error))
