"""GET /v1/models."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ...served_model import ServedModel
from ..service import service_of
from ..wire.http_io import json_response

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The served model."""
    _, model = service_of(request).ready()
    return json_response({"object": "list", "data": [_model_card(model)]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """The served model, by its name."""
    return json_response(_model_card(service_of(request).check_model(name)))


def _model_card(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tokenspeed",
        "max_model_len": model.max_model_len,
    }
