"""Body of the Responses API, and its items as a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...served_model import ServedModel
from ...text.chat_messages import Message, RawObject
from ...text.sampling_params import SamplingParams
from ..conversation import Conversation, ToolChoice
from ..errors import APIError
from ..wire.http_io import RequestBody
from .bodies import MAX_MESSAGES, MAX_TOOLS, Flag, Integer, Number, Text


class Part(BaseModel):
    """A part of an item's content."""

    model_config = ConfigDict(extra="ignore")

    type: Text
    text: Text | None = None


Parts = Text | Annotated[list[Part], Field(fail_fast=True, max_length=MAX_MESSAGES)]


class Item(BaseModel):
    """One item of the input; which fields it has depends on its type."""

    model_config = ConfigDict(extra="ignore")

    type: Text = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Parts | None = None
    call_id: Text | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: Parts | None = None


class ResponseTool(BaseModel):
    """A tool. Those of other types than function are run by OpenAI's servers, and are left out."""

    model_config = ConfigDict(extra="ignore")

    type: Text
    name: Text | None = None
    description: Text | None = None
    parameters: dict[str, Any] | None = None


class NamedFunction(BaseModel):
    """The function that must be called."""

    type: Literal["function"]
    name: Text


class Reasoning(BaseModel):
    """How the model thinks."""

    model_config = ConfigDict(extra="ignore")

    effort: Text | None = None
    """Given to templates that read it."""


class ResponsesRequest(RequestBody):
    """Body of POST /v1/responses."""

    model_config = ConfigDict(extra="ignore")
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "previous_response_id": (None,),
        "conversation": (None,),
        "background": (None, False),
        "prompt": (None,),
        "top_logprobs": (None, 0),
        "max_tool_calls": (None,),
        "truncation": (None, "disabled"),
        "text": (None, {}, {"format": {"type": "text"}}),
    }
    ignored: ClassVar[tuple[str, ...]] = (
        "client_metadata",
        "include",
        "metadata",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    )

    model: Text | None = None
    input: Text | Annotated[list[Item], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    tools: Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    """With "required" or a name, the reply is made to begin as a call."""
    parallel_tool_calls: Flag | None = None
    max_output_tokens: Annotated[Integer, Field(ge=1, lt=2**31)] | None = None
    """Clamped to what fits."""
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    reasoning: Reasoning | None = None
    stream: Flag | None = None

    def sampling_params(self) -> SamplingParams:
        """The sampling fields; what is left out becomes the default."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
        )


def conversation(body: ResponsesRequest, model: ServedModel) -> Conversation:
    """The body's chat. Raises APIError 400 naming an item that is not supported."""
    messages: list[Message] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        for at, item in enumerate(body.input):
            _add(messages, item, f"input[{at}]")
    if not messages:
        raise APIError(400, "input: there is nothing to answer; give at least one message", param="input")
    tools = [
        {
            "type": "function",
            "function": tool.model_dump(include={"name", "description", "parameters"}, exclude_none=True),
        }
        for tool in body.tools or []
        if tool.type == "function" and tool.name is not None
    ]
    choice = ToolChoice("none" if not tools else "auto")
    if isinstance(body.tool_choice, NamedFunction):
        if body.tool_choice.name not in [tool["function"]["name"] for tool in tools]:
            message = f"tool_choice: {body.tool_choice.name[:80]!r} is none of the tools"
            raise APIError(400, message, param="tool_choice")
        choice = ToolChoice("named", body.tool_choice.name)
    elif body.tool_choice == "required" and not tools:
        raise APIError(400, "tool_choice: 'required' needs tools of type function", param="tool_choice")
    elif body.tool_choice is not None and tools:
        choice = ToolChoice(body.tool_choice)
    known = model.chat_template.variables if model.chat_template is not None else frozenset()
    effort = body.reasoning.effort if body.reasoning is not None else None
    variables: dict[str, Any] = {}
    if effort is not None and "reasoning_effort" in known:
        variables["reasoning_effort"] = effort
    if effort == "none" and "enable_thinking" in known:
        variables["enable_thinking"] = False
    return Conversation(
        messages,
        source="input",
        tools=tools,
        choice=choice,
        parallel_calls=body.parallel_tool_calls is not False,
        variables=variables,
    )


def _add(messages: list[Message], item: Item, place: str) -> None:
    """Add an item; what an assistant thought, said and called in a row is one message."""
    match item.type:
        case "message":
            if item.role is None:
                raise APIError(400, f"{place}.role: this field is required", param=f"{place}.role")
            text = _text(item.content, f"{place}.content")
            if item.role == "assistant":
                own = _assistant(messages, fresh="content")
                own["content"] = text
            else:
                messages.append({"role": "system" if item.role == "developer" else item.role, "content": text})
        case "reasoning":
            if thought := _text(item.content, f"{place}.content"):
                _assistant(messages, fresh="reasoning_content")["reasoning_content"] = thought
        case "function_call":
            if item.name is None:
                raise APIError(400, f"{place}.name: this field is required", param=f"{place}.name")
            arguments = RawObject.parse(item.arguments or "{}")
            function = {"name": item.name, "arguments": {} if arguments is None else arguments}
            call = {"id": item.call_id or "", "type": "function", "function": function}
            _assistant(messages).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            output = _text(item.output, f"{place}.output")
            messages.append({"role": "tool", "tool_call_id": item.call_id or "", "content": output})
        case _:
            raise APIError(400, f"{place}.type: {item.type[:40]!r} is not supported", param=f"{place}.type")


def _assistant(messages: list[Message], fresh: str | None = None) -> Message:
    """The assistant's message that is being put together; a new one if it has `fresh` or calls already."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or (fresh and (last.get(fresh) or last.get("tool_calls"))):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _text(content: str | list[Part] | None, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for at, part in enumerate(content):
        if part.type not in ("input_text", "output_text", "text", "reasoning_text", "summary_text"):
            where = f"{place}[{at}].type"
            raise APIError(400, f"{where}: {part.type[:40]!r} is not supported; send text", param=where)
        texts.append(part.text or "")
    return "".join(texts)
