"""Bodies of the Messages API. `cache_control` may stand anywhere and is never rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from ...text.sampling_params import MAX_STOP_STRINGS, SamplingParams
from ..wire.http_io import RequestBody

MAX_MESSAGES: Final = 10_000
MAX_BLOCKS: Final = 10_000
MAX_TOOLS: Final = 1024

Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
StopString = Annotated[Text, Field(min_length=1, max_length=1024)]


class InnerBlock(BaseModel):
    """A block within the result of a tool."""

    model_config = ConfigDict(extra="ignore")

    type: Text
    text: Text | None = None


class Block(InnerBlock):
    """One block of content; which fields it has depends on its type."""

    thinking: Text | None = None
    id: Text | None = None
    name: Text | None = None
    input: dict[str, Any] | None = None
    tool_use_id: Text | None = None
    content: Text | Annotated[list[InnerBlock], Field(fail_fast=True, max_length=MAX_BLOCKS)] | None = None
    is_error: Flag | None = None


Content = Text | Annotated[list[Block], Field(fail_fast=True, max_length=MAX_BLOCKS)]


class MessageBody(BaseModel):
    """One message. A system message may stand between the others."""

    role: Literal["user", "assistant", "system"]
    content: Content


class Tool(BaseModel):
    """A tool of the client. Tools that Anthropic's servers run have another type, and are left out."""

    model_config = ConfigDict(extra="ignore")

    type: Text | None = None
    name: Annotated[Text, Field(min_length=1, max_length=256)]
    description: Text | None = None
    input_schema: dict[str, Any] | None = None


class Choice(BaseModel):
    """Whether tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: Flag | None = None


class Thinking(BaseModel):
    """Whether the model thinks; a budget has no effect."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["enabled", "disabled", "adaptive"]


class OutputConfig(BaseModel):
    """How the answer is written; an effort has no effect."""

    model_config = ConfigDict(extra="ignore")

    format: None = None


class CountTokensRequest(RequestBody):
    """Body of POST /v1/messages/count_tokens."""

    model_config = ConfigDict(extra="ignore")

    ignored: ClassVar[tuple[str, ...]] = (
        "betas",
        "cache_control",
        "context_management",
        "metadata",
        "service_tier",
    )

    model: Text
    messages: Annotated[list[MessageBody], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    """With "any" or "tool", the reply is made to begin as a call."""
    thinking: Thinking | None = None
    """Turns thinking on or off where the chat template can; the budget has no effect."""


class MessagesRequest(CountTokensRequest):
    """Body of POST /v1/messages."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mcp_servers": (None, []),
        "container": (None,),
        "output_format": (None,),
    }

    max_tokens: Annotated[Integer, Field(ge=1, lt=2**31)]
    """Clamped to what fits."""
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=0, lt=2**31)] | None = None
    stream: Flag | None = None
    output_config: OutputConfig | None = None
    """A format is refused; an effort has no effect."""

    def sampling_params(self) -> SamplingParams:
        """The sampling fields; what is left out becomes the default."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            stop=tuple(self.stop_sequences or ()),
        )
