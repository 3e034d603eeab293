"""How families of models write thinking and tool calls: data for the parser, and for a model's prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Style = Literal["object", "named", "list", "parameters", "pairs"]


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How one tool call is written.

    `style` says what stands between `open` and `close`:

    - object: a JSON object with the keys "name" and "arguments" (or "parameters").
    - named: the name, `separator`, and the arguments as a JSON object.
    - list: a JSON array of such objects.
    - parameters: `<function=NAME>`, and `<parameter=KEY>` VALUE `</parameter>` for each argument.
    - pairs: the name, and `<arg_key>` KEY `</arg_key>` `<arg_value>` VALUE `</arg_value>` for each argument.
    """

    open: str
    close: str
    style: Style
    separator: str = ""
    prefix: str = ""
    """Stands before every name and is no part of it."""
    has_ids: bool = False
    """The name is written as an id, functions.NAME:INDEX."""
    bare: bool = False
    """A reply that begins with a JSON object is a call too, without `open`."""


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How a family of models writes its replies."""

    name: str
    call: CallSyntax | None = None
    think_open: str = "<think>"
    think_close: str = "</think>"
    silent: tuple[str, ...] = ()
    """Marks around the calls, which are left out."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that may not be cut out of the text as a special token before the parser has seen it."""
        call = () if self.call is None else (self.call.open, self.call.close, self.call.separator)
        return tuple(mark for mark in (self.think_open, self.think_close, *call, *self.silent) if mark)


FORMATS: Final[Mapping[str, ReplyFormat]] = {
    form.name: form
    for form in (
        ReplyFormat("hermes", CallSyntax("<tool_call>", "</tool_call>", "object")),
        ReplyFormat("qwen3-coder", CallSyntax("<tool_call>", "</tool_call>", "parameters")),
        ReplyFormat("glm4", CallSyntax("<tool_call>", "</tool_call>", "pairs")),
        ReplyFormat(
            "kimi-k2",
            CallSyntax(
                "<|tool_call_begin|>",
                "<|tool_call_end|>",
                "named",
                separator="<|tool_call_argument_begin|>",
                has_ids=True,
            ),
            silent=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        ),
        ReplyFormat(
            "deepseek-v3",
            CallSyntax(
                "<｜tool▁call▁begin｜>",
                "```<｜tool▁call▁end｜>",
                "named",
                separator="\n```json\n",
                prefix="function<｜tool▁sep｜>",
            ),
            silent=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        ),
        ReplyFormat(
            "deepseek-v3.1",
            CallSyntax("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "named", separator="<｜tool▁sep｜>"),
            silent=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        ),
        ReplyFormat("llama3", CallSyntax("<|python_tag|>", "<|eom_id|>", "object", bare=True)),
        ReplyFormat(
            "mistral",
            CallSyntax("[TOOL_CALLS]", "", "list", separator="[ARGS]"),
            think_open="[THINK]",
            think_close="[/THINK]",
        ),
        ReplyFormat("plain"),
    )
}
"""Every format that is known, by name."""


def detect(template: str) -> ReplyFormat:
    """The format that the source of a chat template teaches its model; hermes if it shows none."""
    for mark, name in (
        ("<|tool_call_argument_begin|>", "kimi-k2"),
        ("<function=", "qwen3-coder"),
        ("<arg_key>", "glm4"),
        ("```json", "deepseek-v3"),
        ("<｜tool▁sep｜>", "deepseek-v3.1"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3"),
        ('"parameters": dictionary of argument', "llama3"),
    ):
        if mark in template and (name != "deepseek-v3" or "tool▁sep" in template):
            return FORMATS[name]
    return FORMATS["hermes"]
