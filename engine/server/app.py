"""The HTTP server: OpenAI-compatible endpoints, models, health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request, Response

from .http_io import json_response
from .metrics import CONTENT_TYPE
from .openai import chat, completions
from .openai.errors import APIError, install_error_handlers
from .service import ServedModel, Service, service_of

router = APIRouter()


def create_app(service: Service) -> FastAPI:
    """The ASGI application. `service` may be given its model later; until then requests are answered with 503."""
    app = FastAPI(title="TokenSpeed", description="OpenAI-compatible API of a TokenSpeed server.")
    app.state.service = service
    install_error_handlers(app)
    for part in (chat.router, completions.router, router):
        app.include_router(part)
    return app


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The served model."""
    _, model = service_of(request).ready()
    return json_response({"object": "list", "data": [_model_card(model)]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """The served model, by its name."""
    return json_response(_model_card(service_of(request).check_model(name)))


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


def _model_card(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tokenspeed",
        "max_model_len": model.max_model_len,
    }
