"""Messages of Anthropic's API to a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...served_model import ServedModel
from ...text.chat_messages import Message
from ..conversation import Conversation, ToolChoice
from ..errors import APIError
from .bodies import CountTokensRequest, InnerBlock, MessageBody

_BILLING: Final = "x-anthropic-billing-header:"
"""Begins a system block that differs from conversation to conversation and says nothing to a model."""


def conversation(body: CountTokensRequest, model: ServedModel) -> Conversation:
    """The body's chat. Raises APIError 400 naming a block that is not supported."""
    messages: list[Message] = []
    if body.system is not None:
        system = _texts(body.system, "system", skip_billing=True)
        if system:
            messages.append({"role": "system", "content": system})
    for at, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{at}].content")
    tools: list[dict[str, Any]] = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                **({} if tool.description is None else {"description": tool.description}),
                "parameters": tool.input_schema or {"type": "object", "properties": {}},
            },
        }
        for tool in body.tools or []
        if tool.type in (None, "custom")
    ]
    known = model.chat_template.variables if model.chat_template is not None else frozenset()
    variables: dict[str, Any] = {}
    if body.thinking is not None:
        for name in ("enable_thinking", "thinking"):
            if name in known:
                variables[name] = body.thinking.type != "disabled"
    return Conversation(
        messages,
        source="messages",
        tools=tools,
        choice=_choice(body, [tool["function"]["name"] for tool in tools]),
        parallel_calls=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        continue_final=body.messages[-1].role == "assistant" and not messages[-1].get("tool_calls"),
        variables=variables,
    )


def _choice(body: CountTokensRequest, names: list[str]) -> ToolChoice:
    choice = body.tool_choice
    if choice is None or choice.type in ("auto", "none") or not names:
        if choice is not None and choice.type in ("any", "tool"):
            raise APIError(400, f"tool_choice: {choice.type!r} needs tools; give at least one", param="tool_choice")
        return ToolChoice("none" if choice is not None and choice.type == "none" else "auto")
    if choice.type == "any":
        return ToolChoice("required")
    if choice.name not in names:
        raise APIError(400, f"tool_choice.name: {str(choice.name)[:80]!r} is none of the tools", param="tool_choice")
    return ToolChoice("named", choice.name)


def _messages(message: MessageBody, place: str) -> list[Message]:
    """One message is several where results of tools stand beside words: each result is a message of its own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    result: list[Message] = []
    words: list[str] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for at, block in enumerate(message.content):
        where = f"{place}[{at}]"
        match block.type:
            case "text":
                words.append(block.text or "")
            case "thinking" if message.role == "assistant":
                thoughts.append(block.thinking or "")
            case "redacted_thinking" if message.role == "assistant":
                continue  # nobody but the maker of the block can read it
            case "tool_use" if message.role == "assistant":
                if block.name is None:
                    raise APIError(400, f"{where}.name: this field is required", param=f"{where}.name")
                function = {"name": block.name, "arguments": block.input or {}}
                calls.append({"id": block.id or "", "type": "function", "function": function})
            case "tool_result" if message.role == "user":
                content = _texts(block.content or "", f"{where}.content")
                result.append({"role": "tool", "tool_call_id": block.tool_use_id or "", "content": content})
            case _:
                message_text = f"{where}.type: {block.type[:40]!r} is not supported in a message of this role"
                raise APIError(400, message_text, param=f"{where}.type")
    if words or calls or thoughts or not result:
        own: Message = {"role": message.role, "content": "\n".join(words)}
        if thoughts:
            own["reasoning_content"] = "".join(thoughts)
        if calls:
            own["tool_calls"] = calls
        result.append(own)
    return result


def _texts(content: str | Sequence[InnerBlock], place: str, skip_billing: bool = False) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        _text(block, f"{place}[{at}]")
        for at, block in enumerate(content)
        if not (skip_billing and (block.text or "").startswith(_BILLING))
    )


def _text(block: InnerBlock, where: str) -> str:
    if block.type != "text":
        raise APIError(400, f"{where}.type: {block.type[:40]!r} is not supported; send text", param=f"{where}.type")
    return block.text or ""
