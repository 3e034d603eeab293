"""What the endpoints share: the served model, the phase the server is in, and the way from prompts to generations.

Nothing here knows a protocol: prompts are tokens, parameters are `SamplingParams`, errors are `APIError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from ...scheduler import SPEC_HASH
from ..loop.async_engine import AsyncEngine, EngineStopped, Overloaded
from ..loop.generation import Generation, GenerationFailed, RequestRejected
from ..loop.metrics import ServingMetrics
from ..served_model import ServedModel
from ..text.sampling_params import SamplingParams
from .errors import APIError, ContextLengthExceeded

FAILED_STEPS_UNHEALTHY: Final = 3
"""After so many failed steps in a row /health says that the server is not well."""
HEARTBEAT_SECONDS: Final = 15.0
"""A stream without news sends a comment this often, so that nobody gives up during a long prefill."""
SYSTEM_FINGERPRINT: Final = f"spec-{SPEC_HASH[:12]}"


class Phase(Enum):
    """What the server is doing; anything but READY answers requests with 503."""

    STARTING = "the model is being loaded"
    READY = "ready"
    DRAINING = "the server is shutting down"
    FAILED = "the engine has failed"


@dataclass(slots=True)
class Service:
    """State of one server, shared by its endpoints (as `app.state.service`)."""

    metrics: ServingMetrics = field(default_factory=ServingMetrics)
    phase: Phase = Phase.STARTING
    engine: AsyncEngine | None = None
    model: ServedModel | None = None

    def start(self, engine: AsyncEngine, model: ServedModel) -> None:
        """The model is loaded: take requests from now on."""
        self.engine, self.model, self.phase = engine, model, Phase.READY

    @property
    def problem(self) -> str | None:
        """Why the server is not healthy; None if it is."""
        if self.phase is not Phase.READY:
            return str(self.phase.value)
        if self.engine is not None and self.engine.failed_steps >= FAILED_STEPS_UNHEALTHY:
            return f"the last {self.engine.failed_steps} steps failed"
        return None

    def ready(self) -> tuple[AsyncEngine, ServedModel]:
        """Engine and model. Raises APIError 503 unless the server takes requests."""
        if self.phase is not Phase.READY or self.engine is None or self.model is None:
            raise APIError(503, f"{self.phase.value}; try again later", headers={"retry-after": "5"})
        return self.engine, self.model

    def check_model(self, name: str | None) -> ServedModel:
        """The model that a request means. Raises APIError 404 if it is not served here."""
        _, model = self.ready()
        if name is not None and not model.goes_by(name):
            message = f"model {name[:80]!r} is not served here; use {model.name!r}"
            raise APIError(404, message, param="model", code="model_not_found")
        return model

    async def generate(
        self,
        prompts: Sequence[NDArray[np.int32]],
        params: Sequence[SamplingParams],
        *,
        max_tokens: int | None,
        source: str,
    ) -> Generation:
        """Queue a request for each prompt and each of `params`, and wait until the scheduler has taken them.

        `max_tokens` is clamped to what fits behind each prompt; None means as many as fit. `source` names the field
        that the prompts came from, for errors. Raises APIError: 400 if a prompt does not fit or is refused, 429 if too
        many wait, 503 if the engine stopped.
        """
        engine, model = self.ready()
        requests = []
        for prompt in prompts:
            room = model.max_model_len - len(prompt)
            if len(prompt) == 0:
                raise APIError(400, f"{source}: the prompt has no tokens; give at least one", param=source)
            if room < 1:
                raise ContextLengthExceeded(len(prompt), model.max_model_len, source)
            limit = room if max_tokens is None else min(max_tokens, room)
            requests += [(prompt, replace(choice, max_tokens=limit)) for choice in params]
        try:
            generation = engine.generate(requests)
        except Overloaded as error:
            raise APIError(429, f"{error}; try again later", code="overloaded", headers={"retry-after": "1"}) from None
        except EngineStopped as error:
            raise APIError(503, str(error), headers={"retry-after": "5"}) from None
        try:
            await generation.accepted()
        except BaseException as error:
            generation.abandon()
            if isinstance(error, RequestRejected):
                raise APIError(400, f"{source}: {error}", param=source, code="request_rejected") from None
            if isinstance(error, GenerationFailed):
                raise failure(error) from None
            raise
        return generation


def service_of(request: Request) -> Service:
    """The server's state."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def failure(error: GenerationFailed) -> APIError:
    """What the client hears when the engine could not finish its request."""
    return APIError(503 if error.shutdown else 500, str(error), code="generation_failed")
