"""Takes thinking and tool calls out of a reply as it streams. However it is cut, the events joined are equal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .events import CallArguments, CallStarted, ReplyEvent, Thinking, Words
from .formats import CallSyntax, ReplyFormat
from .json_value import JsonValue

_HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=[{\[])')
_SPACE: Final = re.compile(r"\s*")
_KIMI_ID: Final = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?$")
_FUNCTION: Final = re.compile(r"\s*<function=([^>]+)>")
_PARAMETER: Final = re.compile(r"\s*<parameter=([^>]+)>\n?(.*?)\n?</parameter>", re.S)
_PAIR: Final = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.S)


class ReplyParser:
    """Parses one reply.

    A call that is not written as the format demands is given back as words, mark and all: nothing is dropped.

    Args:
        form: how the model writes.
        tools: JSON schemas of the tools' parameters by name; without tools, calls are not looked for.
        thinking: whether the prompt has opened the model's thinking already.
        parallel: whether more than the first call is wanted; later ones are left out.
    """

    def __init__(
        self,
        form: ReplyFormat,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        thinking: bool = False,
        parallel: bool = True,
    ) -> None:
        self._form = form
        self._tools = dict(tools or {})
        self._call = form.call if tools else None
        self._thinking = thinking
        self._parallel = parallel
        self._buffer = ""
        self._calls = 0
        self._block: _Block | None = None
        self._began = False
        """Something other than space has been said, so that a bare object is no call any more."""
        self._trim = thinking
        """Space is layout until something has been said."""

    @property
    def calls(self) -> int:
        """How many calls were begun."""
        return self._calls

    def feed(self, text: str) -> list[ReplyEvent]:
        """What `text` completes."""
        self._buffer += text
        return _merged(self._parse(final=False))

    def finish(self) -> list[ReplyEvent]:
        """What was held back."""
        return _merged(self._parse(final=True))

    def _parse(self, final: bool) -> Iterator[ReplyEvent]:
        while True:
            if self._block is not None:
                yield from self._in_block(final)
                if self._block is not None:
                    return
            before = len(self._buffer), self._thinking, self._block
            yield from self._in_text(final)
            if (len(self._buffer), self._thinking, self._block) == before:
                return

    def _in_text(self, final: bool) -> Iterator[ReplyEvent]:
        form, call = self._form, self._call
        if call is not None and call.bare and not self._began and not self._thinking:
            space = _SPACE.match(self._buffer)
            assert space is not None
            if space.end() == len(self._buffer) and not final:
                return
            if self._buffer[space.end() :].startswith("{"):
                self._open(call, "", self._buffer)
                return
        marks = [form.think_close] if self._thinking else [form.think_open, *form.silent]
        if call is not None and not self._thinking:
            marks.append(call.open)
        found = min(((at, mark) for mark in marks if (at := self._buffer.find(mark)) >= 0), default=None)
        if found is None:
            keep = 0 if final else max((_tail(self._buffer, mark) for mark in marks), default=0)
            yield from self._say(self._buffer[: len(self._buffer) - keep], strip_end=False)
            self._buffer = self._buffer[len(self._buffer) - keep :]
            return
        at, mark = found
        rest = self._buffer[at + len(mark) :]
        is_call = call is not None and mark == call.open
        yield from self._say(self._buffer[:at], strip_end=is_call or mark in (*form.silent, form.think_close))
        if is_call:
            assert call is not None
            self._open(call, mark, rest)
            return
        self._buffer = rest
        if mark == form.think_open:
            self._thinking = True
        elif mark == form.think_close:
            self._thinking = self._began = False
        self._trim = True

    def _open(self, call: CallSyntax, mark: str, rest: str) -> None:
        self._block = _Block(call, mark, self._tools, self._calls)
        self._buffer = rest

    def _in_block(self, final: bool) -> Iterator[ReplyEvent]:
        assert self._block is not None
        text, self._buffer = self._buffer, ""
        for event in self._block.feed(text, final):
            if isinstance(event, CallStarted):
                self._calls += 1
            self._trim = not isinstance(event, Words)
            if not isinstance(event, CallStarted | CallArguments) or self._parallel or event.index == 0:
                yield event
        if self._block.rest is not None:
            self._buffer, self._block, self._began = self._block.rest, None, True

    def _say(self, text: str, strip_end: bool) -> Iterator[ReplyEvent]:
        """Space around marks is layout, not text."""
        if self._trim:
            text = text.lstrip()
        if strip_end:
            text = text.rstrip()
        if not text:
            return
        self._trim = False
        self._began = self._began or not text.isspace()
        yield Thinking(text) if self._thinking else Words(text)


class _Block:
    """The text of one call from its opening mark on. `rest` is set when it is over: what follows it."""

    def __init__(self, call: CallSyntax, mark: str, tools: Mapping[str, Mapping[str, Any]], first: int) -> None:
        self._call = call
        self._next = first
        self._raw = mark
        self._text = ""
        self._tools = tools
        self._value: JsonValue | None = None
        self._ended = False
        self.rest: str | None = None

    def feed(self, text: str, final: bool) -> Iterator[ReplyEvent]:
        self._text += text
        if self._call.style in ("parameters", "pairs"):
            yield from self._tagged(final)
        else:
            yield from self._json(final)

    def _json(self, final: bool) -> Iterator[ReplyEvent]:
        while True:
            if self._value is not None:
                used = self._value.feed(self._text)
                if used:
                    yield CallArguments(self._next - 1, self._text[:used])
                self._text = self._text[used:]
                if not self._value.done:
                    if final:
                        self.rest = ""
                    return
                self._value, self._ended = None, True
            if self._ended:
                if not self._after_call(final):
                    return
                if self.rest is not None:
                    return
            head = self._head()
            if head is not None:
                name, call_id, end = head
                self._text = self._text[end:]
                self._value, self._raw = JsonValue(), ""
                yield CallStarted(self._next, name, call_id)
                self._next += 1
                continue
            if not self._hopeless(final):
                return
            yield from self._whole()
            if self.rest is not None:
                return

    def _head(self) -> tuple[str, str | None, int] | None:
        """Name, id, and where the arguments begin, once they do."""
        call = self._call
        if call.style == "named" or (
            call.style == "list" and not self._text.lstrip().startswith(("[", ",")) and self._text
        ):
            at = self._text.find(call.separator)
            if call.style == "list" and at < 0:
                at = self._text.find("{")
                if at < 0:
                    return None
                written, end = self._text[:at].strip(), at
            elif at < 0:
                return None
            else:
                written, end = self._text[:at].strip().removeprefix(call.prefix), at + len(call.separator)
            space = _SPACE.match(self._text, end)
            assert space is not None
            if space.end() == len(self._text) or self._text[space.end()] != "{":
                return None
            match = _KIMI_ID.match(written) if call.has_ids else None
            return (match[1] if match else written), (written if call.has_ids else None), space.end()
        start = 0
        if call.style == "list":
            match = re.compile(r"\s*[\[,]").match(self._text) or re.compile(r"\s*").match(self._text)
            start = match.end() if match else 0
        match = _HEAD.match(self._text, start)
        if match is None:
            return None
        try:
            return _whole_characters(str(json.loads(match[1]))), None, match.end()
        except ValueError:
            return None

    def _after_call(self, final: bool) -> bool:
        """Skip what closes a call. Returns False while that is not known; sets `rest` when the block is over."""
        call, text = self._call, self._text
        if call.style == "list":
            match = re.match(r"\s*\}?\s*(\]|,)?", text)
            assert match is not None
            if match.end() == len(text) and match[1] != "]" and not final:
                return False
            if match[1] == ",":
                self._text, self._ended = text[match.end() - 1 :], False
                return True
            self.rest = text[match.end() :]
            return True
        closing = r"\s*\}?\s*" if call.style == "object" else r"\s*"
        match = re.match(closing + re.escape(call.close), text)
        if match is not None and call.close:
            self.rest = text[match.end() :]
            return True
        match = re.match(closing, text)
        assert match is not None
        left = text[match.end() :]
        if not final and (not left or call.close.startswith(left)):
            return False
        self.rest = left.removeprefix(";") if call.bare else left
        return True

    def _hopeless(self, final: bool) -> bool:
        """Whether a call that has not begun never will, or is written with its keys in another order."""
        if final:
            return True
        call, text = self._call, self._text
        if call.style == "object":
            value = JsonValue()
            start = text.find("{")
            if start < 0:
                return bool(text.strip()) or (bool(call.close) and call.close in text)
            return value.feed(text[start:]) >= 0 and value.done
        if call.style == "named":
            return bool(call.close) and call.close in text
        return False

    def _whole(self) -> Iterator[ReplyEvent]:
        """Read a finished block by the JSON parser; if it is no call, it is words."""
        text = self._text
        start = text.find("{")
        end = len(text)
        if start >= 0:
            value = JsonValue()
            end = start + value.feed(text[start:])
            try:
                found = json.loads(text[start:end])
                name = found["name"]
                arguments = found.get("arguments", found.get("parameters", {}))
                if isinstance(name, str) and isinstance(arguments, dict | str):
                    yield CallStarted(self._next, _whole_characters(name))
                    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                    yield CallArguments(self._next, _whole_characters(written))
                    self._next += 1
                    self._text, self._ended = text[end:], True
                    return
            except (ValueError, KeyError, TypeError, AttributeError):
                pass
        at = text.find(self._call.close) if self._call.close else -1
        cut = len(text) if at < 0 else at + len(self._call.close)
        yield Words(self._raw + text[:cut])
        self.rest = text[cut:]

    def _tagged(self, final: bool) -> Iterator[ReplyEvent]:
        """Arguments as tags: each is given when it is complete, as a member of a JSON object."""
        at = self._text.find(self._call.close)
        if at < 0 and not final:
            return
        block = self._text if at < 0 else self._text[:at]
        if self._call.style == "parameters":
            head = _FUNCTION.match(block)
            name = head[1].strip() if head else ""
            pairs = [(key.strip(), value) for key, value in _PARAMETER.findall(block)]
        else:
            name = re.split(r"\n|<arg_key>", block.strip(), maxsplit=1)[0].strip()
            pairs = [(key.strip(), value) for key, value in _PAIR.findall(block)]
        cut = len(self._text) if at < 0 else at + len(self._call.close)
        self.rest = self._text[cut:]
        if not name or (self._tools and name not in self._tools and at < 0):
            yield Words(self._raw + self._text[:cut])
            return
        properties = self._tools.get(name, {}).get("properties", {})
        arguments = {key: _typed(value, properties.get(key)) for key, value in pairs}
        yield CallStarted(self._next, name)
        yield CallArguments(self._next, _whole_characters(json.dumps(arguments, ensure_ascii=False)))


def _whole_characters(text: str) -> str:
    """`text` with halves of surrogate pairs as question marks: a model may write \\ud83d, which no encoding has."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _typed(value: str, schema: Any) -> Any:
    """The value of a tag: text where the schema wants a string, else JSON if it is that."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string":
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _tail(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `mark`, with the space before it."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length + len(text[:-length]) - len(text[:-length].rstrip())
    return len(text) - len(text.rstrip())


def _merged(events: Iterator[ReplyEvent]) -> list[ReplyEvent]:
    """Neighbouring parts of one kind as one."""
    result: list[ReplyEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Words | Thinking) and type(last) is type(event):
            result[-1] = type(event)(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            result[-1] = CallArguments(event.index, last.text + event.text)
        else:
            result.append(event)
    return result
