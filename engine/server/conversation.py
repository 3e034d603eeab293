"""A chat on its way to the model and back, in no protocol's words: the prompt, and the parsed reply as it streams."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..loop.generation import Generation
from ..served_model import ServedModel
from ..text.answer import FinishReason
from ..text.chat_messages import Message, protected, protected_tools, with_late_system_as_user, with_tools_as_text
from ..text.chat_template import ChatTemplateError
from ..text.prompts import PromptTooLong
from ..text.replies.events import CallStarted, ReplyEvent
from ..text.replies.parser import ReplyParser
from ..text.sampling_params import SamplingParams
from .errors import APIError, ContextLengthExceeded

_END: Final = "\ufdd3"  # a noncharacter: where the last message ends, behind which the template writes its own


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools are called: as the model likes, never, at least one, or the one that is named."""

    kind: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat asks for. `source` names the field of the messages, for errors."""

    messages: list[Message]
    source: str
    tools: list[dict[str, Any]] = field(default_factory=list)
    choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_calls: bool = True
    continue_final: bool = False
    """The last message is the beginning of the answer."""
    open_turn: bool = True
    """Write the beginning of the assistant's turn behind the messages."""
    variables: dict[str, Any] = field(default_factory=dict)
    """Further names that the template may read, such as enable_thinking."""

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model may call."""
        return [] if self.choice.kind == "none" else self.tools


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered and encoded conversation."""

    ids: NDArray[np.int32]
    """[tokens]"""
    prefill: str
    """The beginning of the reply that was put into the prompt, to force a call."""
    thinking: bool
    """The prompt ends where thinking has begun."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last news of a choice."""

    reason: FinishReason
    stop: str | int | None
    """The stop string or token that ended it, if one did."""
    calls: int
    """How many tools were called."""


def chat_prompt(model: ServedModel, talk: Conversation) -> ChatPrompt:
    """Render and encode. Takes time that grows with what is new in the conversation: call it off the event loop.

    Raises APIError 400 if there is no template, it refuses the messages, or they are too long.
    """
    template, encoder = model.chat_template, model.prompts
    if template is None:
        raise APIError(400, f"model {model.name!r} has no chat template; use /v1/completions", param="model")
    call = model.replies.call
    keep = (model.replies.think_open, model.replies.think_close)
    messages = protected(encoder, talk.messages, keep)
    if not template.takes_late_system:
        messages = with_late_system_as_user(messages)
    tools = protected_tools(encoder, talk.offered)
    [variables] = protected_tools(encoder, [talk.variables])
    if not template.knows_tools:
        messages, tools = with_tools_as_text(messages, tools), []
    if talk.continue_final:
        last = str(messages[-1].get("content") or "").rstrip()
        messages = [*messages[:-1], {**messages[-1], "content": last + _END}]
    try:
        text = template.render(
            messages,
            tools=tools or None,
            add_generation_prompt=talk.open_turn and not talk.continue_final,
            **variables,
        )
    except ChatTemplateError as error:
        message = f"{talk.source}: {error}"
        raise APIError(400, message, param=talk.source, code="invalid_messages") from None
    if talk.continue_final:
        if (at := text.rfind(_END)) < 0:
            raise APIError(400, f"{talk.source}: the chat template does not show the last message", param=talk.source)
        text = text[:at]
    thinking = text.rstrip().endswith(model.replies.think_open)
    prefill = "" if call is None else _forced_call(model, talk)
    if prefill and thinking:  # a call within a thought is none
        prefill = f"\n{model.replies.think_close}\n\n{prefill}"
    limit = model.max_model_len - 1
    try:
        ids = encoder.encode(text + prefill, limit)
    except PromptTooLong as error:
        raise ContextLengthExceeded(error.tokens, model.max_model_len, talk.source) from None
    return ChatPrompt(ids, prefill, thinking)


def _forced_call(model: ServedModel, talk: Conversation) -> str:
    """The beginning of a call, if one is demanded."""
    if talk.choice.kind not in ("required", "named"):
        return ""
    call = model.replies.call
    names = [tool["function"]["name"] for tool in talk.tools]
    name = talk.choice.name if talk.choice.kind == "named" else names[0] if len(names) == 1 else None
    if call is None or call.style not in ("object", "named"):
        message = f"tool_choice: {talk.choice.kind!r} is not supported with this model's way of calling; use 'auto'"
        raise APIError(400, message, param="tool_choice")
    if call.style == "named":
        written = f"functions.{name}:0" if call.has_ids else str(name)
        return call.open + call.prefix + (written + call.separator if name else "")
    key = "parameters" if call.bare else "arguments"
    begin = "" if call.bare else f"{call.open}\n"
    return begin + '{"name": "' + (f'{name}", "{key}": ' if name else "")


def chat_params(model: ServedModel, talk: Conversation, params: SamplingParams) -> SamplingParams:
    """`params` such that marks of calls and thinking reach the parser even where they are special tokens."""
    special = {
        model.tokenizer.added_tokens.get(mark) for mark in model.replies.marks
    } & model.tokenizer.special_token_ids
    return replace(params, skip_special_tokens=False) if special and params.skip_special_tokens else params


class Replies:
    """The replies of a generation, one for each choice, as they stream."""

    def __init__(self, model: ServedModel, talk: Conversation, prompt: ChatPrompt, generation: Generation) -> None:
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in talk.offered}
        self._generation = generation
        self._parsers = [
            ReplyParser(model.replies, schemas, thinking=prompt.thinking, parallel=talk.parallel_calls)
            for _ in generation.choices
        ]
        self._prefill = prompt.prefill
        self._begun = False

    async def news(
        self, heartbeat: float | None = None
    ) -> AsyncIterator[list[tuple[int, list[ReplyEvent], Finished | None]]]:
        """For each choice with news: its index, what it said, and how it ended if it did.

        An empty list after `heartbeat` seconds without any. Raises RequestRejected or GenerationFailed.
        """
        async for deltas in self._generation.deltas(heartbeat=heartbeat):
            result = []
            for delta in deltas:
                parser = self._parsers[delta.index]
                events = [] if self._begun else [e for p in self._parsers for e in p.feed(self._prefill)]
                self._begun = True
                events += parser.feed(delta.text)
                end = None
                if delta.finish_reason is not None:
                    events += parser.finish()
                    end = Finished(delta.finish_reason, self._generation.choices[delta.index].stop, parser.calls)
                result.append((delta.index, events, end))
            yield result


def call_id(event: CallStarted) -> str:
    """An id for a call: the model's own if it writes any (its template may need it again), else a new one."""
    return event.id if event.id is not None else f"call_{uuid.uuid4().hex[:24]}"
