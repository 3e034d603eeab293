"""Messages and tools on their way into a chat template: text of users protected, calls in the words of the model.

Messages are dictionaries as Hugging Face's templates read them: role, content (a string), tool_calls (arguments as an
object), reasoning_content, name, tool_call_id. Tools are {"type": "function", "function": {...}}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .prompts import PromptEncoder

Message = dict[str, Any]

_TOOLS_TEXT: Final = (
    "# Tools\n\nYou may call one or more functions to help with the user's query. Their signatures, one a line:\n"
    "<tools>\n{tools}\n</tools>\n\nTo call one, write a JSON object with its name and arguments within these tags:\n"
    '<tool_call>\n{{"name": <name>, "arguments": <object>}}\n</tool_call>'
)


class RawObject(dict[str, Any]):
    """A JSON object that a template's `tojson` writes as it was written before, to the byte."""

    raw: str

    @classmethod
    def parse(cls, raw: str) -> RawObject | None:
        """The object that `raw` is; None if it is none."""
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        parsed = cls(value)
        parsed.raw = raw
        return parsed


def protected(encoder: PromptEncoder, messages: Sequence[Message], keep: Sequence[str]) -> list[Message]:
    """The messages with every string marked as text. What an assistant said may hold the words in `keep`."""
    return [
        {
            key: value if key == "role" else _protect(encoder, value, keep if message["role"] == "assistant" else ())
            for key, value in message.items()
        }
        for message in messages
    ]


def protected_tools(encoder: PromptEncoder, tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The same for tools."""
    return [_protect(encoder, tool, ()) for tool in tools]


def _protect(encoder: PromptEncoder, value: Any, keep: Sequence[str]) -> Any:
    if isinstance(value, str):
        return encoder.protect(value, keep)
    if isinstance(value, RawObject):
        marked = RawObject({key: _protect(encoder, item, keep) for key, item in value.items()})
        marked.raw = encoder.protect(value.raw, keep)
        return marked
    if isinstance(value, Mapping):
        return {encoder.protect(str(key)): _protect(encoder, item, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_protect(encoder, item, keep) for item in value]
    return value


def with_tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """For templates that know no tools: signatures in the system message, calls and results in Hermes' tags."""
    result: list[Message] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = "\n".join(
                f'<tool_call>\n{{"name": {_json(call["function"]["name"])}, "arguments": '
                f"{_json(call['function'].get('arguments') or {})}}}\n</tool_call>"
                for call in message["tool_calls"]
            )
            content = message.get("content") or ""
            message = {"role": "assistant", "content": f"{content}\n{calls}" if content else calls}
        elif message["role"] == "tool":
            answer = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
            if result and result[-1]["role"] == "user" and result[-1].get("of_tools"):
                result[-1]["content"] += f"\n{answer}"
                continue
            message = {"role": "user", "content": answer, "of_tools": True}
        result.append(message)
    if tools:
        text = _TOOLS_TEXT.format(tools="\n".join(_json(tool) for tool in tools))
        if result and result[0]["role"] == "system":
            result[0] = {**result[0], "content": f"{result[0].get('content') or ''}\n\n{text}"}
        else:
            result.insert(0, {"role": "system", "content": text})
    return [{key: value for key, value in message.items() if key != "of_tools"} for message in result]


def with_late_system_as_user(messages: Sequence[Message]) -> list[Message]:
    """For templates that take a system message at the beginning only: later ones become reminders of the user."""
    return [
        {"role": "user", "content": f"<system-reminder>\n{message.get('content') or ''}\n</system-reminder>"}
        if message["role"] == "system" and at > 0 and messages[at - 1]["role"] != "system"
        else message
        for at, message in enumerate(messages)
    ]


def _json(value: Any) -> str:
    return value.raw if isinstance(value, RawObject) else json.dumps(value, ensure_ascii=False)
