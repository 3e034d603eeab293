"""What the endpoints share: the served model, the phase the server is in, and the way from a request body to tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from ...scheduler import SPEC_HASH
from ..loop.async_engine import AsyncEngine, EngineStopped, Overloaded
from ..loop.generation import Generation, GenerationFailed, RequestRejected
from ..run.sampling import SamplingParams
from ..text.chat_template import ChatTemplate
from ..text.tokenizer import Tokenizer
from .metrics import ServingMetrics
from .openai.bodies import GenerationRequest
from .openai.errors import APIError

FAILED_STEPS_UNHEALTHY: Final = 3
"""After so many failed steps in a row /health says that the server is not well."""
HEARTBEAT_SECONDS: Final = 15.0
"""A stream without news sends a comment this often, so that nobody gives up during a long prefill."""
SYSTEM_FINGERPRINT: Final = f"spec-{SPEC_HASH[:12]}"
_INLINE_CHARACTERS = 2048  # longer prompts are encoded on another thread, so that they do not hold up the others


class Phase(Enum):
    """What the server is doing; anything but READY answers requests with 503."""

    STARTING = "the model is being loaded"
    READY = "ready"
    DRAINING = "the server is shutting down"
    FAILED = "the engine has failed"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients can ask of the model."""

    name: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    max_model_len: int
    """Most tokens of prompt and output together."""
    created: int = field(default_factory=lambda: int(time.time()))


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
        if name is not None and name != model.name:
            message = f"model {name[:80]!r} is not served here; use {model.name!r}"
            raise APIError(404, message, param="model", code="model_not_found")
        return model

    async def generate(
        self, body: GenerationRequest, prompts: Sequence[NDArray[np.int32]], *, param: str
    ) -> Generation:
        """Queue a request for each prompt and wait until the scheduler has taken them.

        `param` names the field that the prompts came from, for errors. Raises APIError: 400 if a prompt does not fit or
        is refused, 429 if too many wait, 503 if the engine stopped.
        """
        engine, model = self.ready()
        lengths = [len(prompt) for prompt in prompts]
        if min(lengths) == 0:
            raise APIError(400, f"{param}: the prompt has no tokens; give at least one", param=param)
        max_tokens = _output_tokens(body, max(lengths), model.max_model_len, param)
        try:
            generation = engine.generate(prompts, sampling_params(body, max_tokens))
        except Overloaded as error:
            raise APIError(429, f"{error}; try again later", code="overloaded", headers={"retry-after": "1"}) from None
        except EngineStopped as error:
            raise APIError(503, str(error), headers={"retry-after": "5"}) from None
        try:
            await generation.accepted()
        except BaseException as error:
            generation.abandon()
            if isinstance(error, RequestRejected):
                raise APIError(400, f"{param}: {error}", param=param, code="request_rejected") from None
            if isinstance(error, GenerationFailed):
                raise failure(error) from None
            raise
        return generation


def service_of(request: Request) -> Service:
    """The server's state."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _output_tokens(body: GenerationRequest, prompt_tokens: int, max_model_len: int, param: str) -> int:
    """How many tokens to generate. Raises APIError 400, naming the lengths, if they do not fit."""
    room = max_model_len - prompt_tokens
    limit_param, limit = body.output_limit
    if room < 1:
        message = (
            f"{param}: the prompt has {prompt_tokens} tokens, but this model takes {max_model_len} tokens in all, of "
            "which at least one is for the output; shorten it"
        )
        raise APIError(400, message, param=param, code="context_length_exceeded")
    if limit is not None and limit > room:
        message = (
            f"{limit_param}: {limit} output tokens do not fit behind {prompt_tokens} prompt tokens, because this model "
            f"takes {max_model_len} tokens in all; ask for at most {room}"
        )
        raise APIError(400, message, param=limit_param, code="context_length_exceeded")
    return limit or room


def sampling_params(body: GenerationRequest, max_tokens: int) -> SamplingParams:
    """The request's sampling fields; null and -1 become the defaults."""
    return SamplingParams(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        seed=body.seed,
        max_tokens=max_tokens,
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
    )


def failure(error: GenerationFailed) -> APIError:
    """What the client hears when the engine could not finish its request."""
    return APIError(503 if error.shutdown else 500, str(error), code="generation_failed")


async def encode(text: str, work: Callable[[str], NDArray[np.int32]]) -> NDArray[np.int32]:
    """`work(text)`, on another thread if the text is long."""
    return work(text) if len(text) <= _INLINE_CHARACTERS else await asyncio.to_thread(work, text)


def usage(generation: Generation) -> dict[str, object]:
    """The usage object of an answer, over all its choices."""
    prompt = sum(choice.prompt_tokens for choice in generation.choices)
    completion = sum(choice.completion_tokens for choice in generation.choices)
    cached = sum(choice.cached_tokens for choice in generation.choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
