"""Bodies of the OpenAI-compatible requests. Unknown fields are ignored; fields that would change the answer are not.

Numbers and flags are strict (the string "5" is not a number). A field that is null counts as left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationInfo, field_validator

from ...loop.generation import Generation
from ...text.sampling_params import MAX_STOP_STRINGS, SamplingParams, choice_seed
from ..wire.http_io import RequestBody
from .fields import IGNORED, REFUSED

MAX_PROMPTS: Final = 64
"""Prompts in one completions request."""
MAX_CHOICES: Final = 64
"""Choices for each prompt."""
MAX_MESSAGES: Final = 10_000
MAX_TOOLS: Final = 1024
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


class GenerationRequest(RequestBody):
    """What chat and completions have in common."""

    model_config = ConfigDict(extra="ignore")
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = REFUSED
    ignored: ClassVar[tuple[str, ...]] = IGNORED

    model: Text | None = None
    max_tokens: Annotated[Integer, Field(ge=1, lt=2**31)] | None = None
    """Most tokens to generate, clamped to what fits; left out, 16 for a completion and what fits for a chat."""
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, lt=2**31)] | None = None
    """Extension: sample from so many of the most likely tokens; 0 or -1 means all."""
    min_p: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """Extension: drop tokens less likely than this share of the most likely one."""
    seed: Annotated[Integer, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: list[Text] | None = None
    """A string, or up to 16; never shown, not even in part."""
    stop_token_ids: list[Annotated[Integer, Field(ge=0, lt=2**31)]] | None = Field(None, max_length=64)
    """Extension: tokens that end the output."""
    ignore_eos: Flag | None = None
    """Extension: go on after an end-of-sequence token."""
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    """Choices for each prompt; they share its KV cache. With a seed, each choice has its own, derived from it."""
    include_stop_str_in_output: Flag | None = None
    """Extension: show the stop string that ended the output."""
    no_stop_trim: Flag | None = None
    """Another name of include_stop_str_in_output."""
    skip_special_tokens: Flag | None = None
    """Extension: false shows special tokens in the text."""
    reasoning_effort: Text | None = None
    """Of chats: given to templates that read it; "none" turns thinking off where the template can."""
    response_format: dict[str, Any] | None = None
    """Only {"type": "text"}."""

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
            include_stop=bool(self.include_stop_str_in_output or self.no_stop_trim),
            skip_special_tokens=self.skip_special_tokens is not False,
        )

    def choices(self, params: SamplingParams) -> list[SamplingParams]:
        """The parameters of each of the `n` choices."""
        if params.seed is None or self.n in (None, 1):
            return [params] * (self.n or 1)
        return [replace(params, seed=choice_seed(params.seed, number)) for number in range(self.n or 1)]

    @property
    def include_usage(self) -> bool:
        """Whether a streamed answer ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CalledFunction(BaseModel):
    """The function of a tool call."""

    name: Text
    arguments: Text | dict[str, Any] = ""
    """A JSON object as text, or the object itself."""


class ToolCall(BaseModel):
    """A call that an assistant made."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(BaseModel):
    """What a tool does."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[Text, Field(min_length=1, max_length=256)]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""
    strict: Flag | None = None
    """Has no effect: arguments are not constrained."""


class Tool(BaseModel):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: Function


class NamedTool(BaseModel):
    """The tool that must be called."""

    type: Literal["function"] = "function"
    function: CalledFunction


class Message(BaseModel):
    """One message of a chat. Further fields (name, tool_calls, ...) are given to the chat template as they are.

    Every message needs content, except an assistant's that calls tools.
    """

    model_config = ConfigDict(extra="allow")

    role: Text
    name: Text | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    function_call: dict[str, Any] | None = None
    """The older form of tool_calls."""
    content: Text | None = Field(None, validate_default=True)  # last, because its check looks at the fields above
    """Text; a list of text parts arrives here joined."""

    @field_validator("role")
    @classmethod
    def _known_role(cls, value: str) -> str:
        if value not in ("system", "developer", "user", "assistant", "tool", "function"):
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

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[Integer, Field(ge=1, lt=2**31)] | None = None
    """The newer name of max_tokens; it wins if both are given."""
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    """With "required" or a name, the reply is made to begin as a call."""
    parallel_tool_calls: Flag | None = None
    """False leaves out all calls but the first."""
    chat_template_kwargs: dict[Text, Any] | None = None
    """Extension: further names for the chat template, such as enable_thinking."""
    continue_final_message: Flag | None = None
    """Extension: the last message is the beginning of the answer."""
    add_generation_prompt: Flag | None = None
    """Extension: false opens no turn of the assistant."""
    logprobs: Flag | None = None
    """Refused when true."""
    echo: Flag | None = None
    """Refused when true."""
    best_of: Integer | None = None
    """Refused above 1."""

    @property
    def output_limit(self) -> int | None:
        """Most tokens to generate; None means as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @field_validator("logprobs", "echo")
    @classmethod
    def _not_supported(cls, value: Any) -> Any:
        if value:
            raise ValueError(_NOT_SUPPORTED)
        return value

    @field_validator("best_of")
    @classmethod
    def _no_search(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError(f"best_of={value} is not supported; leave it out")
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _no_messages(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in ("messages", "tools", "documents", "add_generation_prompt", "self"):
            if value and name in value:
                raise ValueError(f"{name} cannot be given to the template here")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _needs_tools(cls, value: Any, info: ValidationInfo) -> Any:
        tools = [tool.function.name for tool in info.data.get("tools") or []]
        if value == "required" and not tools:
            raise ValueError("'required' needs tools; give at least one")
        if isinstance(value, NamedTool) and value.function.name not in tools:
            raise ValueError(f"{value.function.name[:80]!r} is none of the tools")
        return value


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: list[str | list[int]]
    """A string, a list of strings, a list of token ids, or a list of such lists; arrives here as a list of prompts."""
    echo: Flag | None = None
    """Give the prompt back before the output."""
    logprobs: Integer | None = None
    """Refused."""
    best_of: Integer | None = None
    """Refused above 1."""
    suffix: Text | None = None
    """Refused."""
    max_completion_tokens: Integer | None = None
    """Refused: it is a field of chats."""
    messages: list[Any] | None = None
    """Refused unless empty."""
    tools: list[Any] | None = None
    """Refused unless empty."""

    @field_validator("tools")
    @classmethod
    def _no_tools(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError("a completion has no tools; send them to /v1/chat/completions")
        return value

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

    @field_validator("logprobs", "suffix")
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


def usage(generation: Generation, choices: int) -> dict[str, object]:
    """The usage object of an answer, over all its choices; a prompt with several of them counts once."""
    prompts = generation.choices[::choices]
    prompt = sum(choice.prompt_tokens for choice in prompts)
    completion = sum(choice.completion_tokens for choice in generation.choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(choice.cached_tokens for choice in prompts)},
    }
