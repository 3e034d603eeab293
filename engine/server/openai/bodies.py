"""Bodies of the OpenAI-compatible requests. Unknown fields are ignored; fields that would change the answer are not.

Numbers and flags are strict (the string "5" is not a number). A field that is null counts as left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationInfo, field_validator

from ...loop.generation import Generation
from ...text.sampling_params import MAX_STOP_STRINGS, SamplingParams

MAX_PROMPTS: Final = 64
"""Prompts in one completions request."""
MAX_STOP_CHARACTERS: Final = 1024
DEFAULT_MAX_TOKENS: Final = 16
"""Output tokens of a completion that does not say how many; a chat takes what fits."""
_INT64: Final = 2**63
_NOT_SUPPORTED: Final = "this is not supported; leave it out"

Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: Flag | None = None
    """End the stream with a chunk that carries the usage."""


class GenerationRequest(BaseModel):
    """What chat and completions have in common."""

    model_config = ConfigDict(extra="ignore")

    model: Text | None = None
    max_tokens: Annotated[Integer, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, lt=2**31)] | None = None
    """Extension: sample from so many of the most likely tokens; 0 or -1 means all."""
    min_p: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """Extension: drop tokens less likely than this share of the most likely one."""
    seed: Annotated[Integer, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: list[Text] | None = None
    stop_token_ids: list[Annotated[Integer, Field(ge=0, lt=2**31)]] | None = Field(None, max_length=64)
    """Extension: tokens that end the output."""
    ignore_eos: Flag | None = None
    """Extension: go on after an end-of-sequence token."""
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    n: Integer | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[Text, Number] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: Text | None = None
    """A hint that the models served here have no use for; ignored."""

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_list(cls, value: Any) -> Any:
        if value is None:
            return None
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise ValueError("give a string or a list of strings")
        if len(stops) > MAX_STOP_STRINGS:
            raise ValueError(f"{len(stops)} stop strings are too many; give at most {MAX_STOP_STRINGS}")
        if not all(0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise ValueError(f"each stop string needs 1 to {MAX_STOP_CHARACTERS} characters")
        return stops

    @field_validator("n")
    @classmethod
    def _one_choice(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError(f"n={value} is not supported; send n requests instead (they share the prompt's KV cache)")
        return value

    @field_validator("presence_penalty", "frequency_penalty", "logit_bias", "tools", "functions")
    @classmethod
    def _neutral(cls, value: Any) -> Any:
        if value:
            raise ValueError(_NOT_SUPPORTED)
        return value

    @field_validator("repetition_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value not in (None, 1):
            raise ValueError(f"{value:g} is not supported; use 1 or leave it out")
        return value

    @field_validator("function_call")
    @classmethod
    def _no_call(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError(_NOT_SUPPORTED)
        return value

    @field_validator("response_format")
    @classmethod
    def _text_only(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and value.get("type") != "text":
            raise ValueError('only {"type": "text"} is supported')
        return value

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("this is only allowed when stream is true")
        return value

    @property
    def output_limit(self) -> int | None:
        """Most tokens to generate; None means as many as fit."""
        return self.max_tokens

    def sampling_params(self) -> SamplingParams:
        """The sampling fields; null and -1 become the defaults. The output's length is not decided here."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
        )

    @property
    def include_usage(self) -> bool:
        """Whether a streamed answer ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Message(BaseModel):
    """One message of a chat. Further fields (name, tool_calls, ...) are given to the chat template as they are.

    Every message needs content, except an assistant's that calls tools.
    """

    model_config = ConfigDict(extra="allow")

    role: Text
    name: Text | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None
    """The older form of tool_calls."""
    content: Text | None = Field(None, validate_default=True)  # last, because its check looks at the fields above
    """Text; a list of text parts arrives here joined."""

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value not in ("system", "developer", "user", "assistant", "tool"):
            raise ValueError(f"role {value[:40]!r} is not known; use system, developer, user, assistant or tool")
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            if value is not None and not isinstance(value, str):
                raise ValueError("give a string or a list of text parts")
            return value
        texts = []
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise ValueError('only text parts are supported: {"type": "text", "text": "..."}')
            texts.append(part["text"])
        return "".join(texts)

    @field_validator("content")
    @classmethod
    def _needs_content(cls, value: str | None, info: ValidationInfo) -> str | None:
        role = info.data.get("role")
        calls = info.data.get("tool_calls") or info.data.get("function_call")
        if value is None and role is not None and not (role == "assistant" and calls):
            without = " without tool_calls" if role == "assistant" else ""
            raise ValueError(
                f"a message of role {role!r}{without} needs content; give a string or a list of text parts"
            )
        return value


class ChatCompletionRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[Integer, Field(ge=1, lt=2**31)] | None = None
    """The newer name of max_tokens; it wins if both are given."""
    logprobs: Flag | None = None
    top_logprobs: Integer | None = None

    @property
    def output_limit(self) -> int | None:
        """Most tokens to generate; None means as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @field_validator("logprobs", "top_logprobs")
    @classmethod
    def _not_supported(cls, value: Any) -> Any:
        if value:
            raise ValueError(_NOT_SUPPORTED)
        return value


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: list[str | list[int]]
    """A string, a list of strings, a list of token ids, or a list of such lists; arrives here as a list of prompts."""
    echo: Flag | None = None
    logprobs: Integer | None = None
    best_of: Integer | None = None
    suffix: Text | None = None
    max_completion_tokens: Integer | None = None
    messages: list[Any] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompt_list(cls, value: Any) -> Any:
        prompts = [value] if isinstance(value, str) or _token_ids(value) else value
        if not isinstance(prompts, list) or not all(isinstance(p, str) or p == [] or _token_ids(p) for p in prompts):
            raise ValueError("give a string, a list of strings, a list of token ids, or a list of lists of token ids")
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise ValueError(f"{len(prompts)} prompts were given; give 1 to {MAX_PROMPTS}")
        if not all(prompts):
            raise ValueError("a prompt is empty; give at least one token")
        return prompts

    @property
    def output_limit(self) -> int | None:
        """Most tokens to generate."""
        return self.max_tokens or DEFAULT_MAX_TOKENS

    @field_validator("echo", "logprobs", "suffix")
    @classmethod
    def _not_supported(cls, value: Any) -> Any:
        if value or (value is not None and not isinstance(value, bool | str)):  # logprobs=0 asks for log probabilities
            raise ValueError(_NOT_SUPPORTED)
        return value

    @field_validator("max_completion_tokens")
    @classmethod
    def _chat_limit(cls, value: int | None) -> int | None:
        if value is not None:
            raise ValueError("this is a field of chats; use max_tokens")
        return value

    @field_validator("messages")
    @classmethod
    def _no_messages(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError("a completion takes a prompt; send messages to /v1/chat/completions")
        return value

    @field_validator("best_of")
    @classmethod
    def _no_search(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError(f"best_of={value} is not supported; leave it out")
        return value


def _token_ids(value: Any) -> bool:
    """Whether `value` is a list of token ids (their range is checked against the model's vocabulary later)."""
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


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
