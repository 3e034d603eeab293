"""The HTTP server: the protocols that it speaks, health and metrics."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response

from ..loop.metrics import CONTENT_TYPE
from .anthropic.protocol import ANTHROPIC
from .errors import APIError
from .http_io import json_response
from .openai.protocol import OPENAI
from .protocol import Protocol, install
from .service import Service, service_of

PROTOCOLS: Final[tuple[Protocol, ...]] = (OPENAI, ANTHROPIC)
"""Every protocol that is served; the first one writes the errors of paths that belong to none."""

router = APIRouter()


def create_app(service: Service) -> FastAPI:
    """The ASGI application. `service` may be given its model later; until then requests are answered with 503."""
    app = FastAPI(title="TokenSpeed", description="HTTP API of a TokenSpeed server.")
    app.state.service = service
    install(app, PROTOCOLS)
    app.include_router(router)
    return app


@router.get("/health")
@router.head("/health", include_in_schema=False)
async def health(request: Request) -> Response:
    """200 if requests are taken and executed, else 503 with the reason."""
    problem = service_of(request).problem
    if problem is not None:
        raise APIError(503, problem, headers={"retry-after": "5"})
    return json_response({"status": "ok"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    service = service_of(request)
    snapshot = await service.engine.snapshot() if service.engine is not None else None
    return Response(service.metrics.render(snapshot), media_type=CONTENT_TYPE)
