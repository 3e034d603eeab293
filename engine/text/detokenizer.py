"""Turns output tokens into text one token at a time, without ever cutting a multi-byte character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what decoders write for bytes that are not (yet) UTF-8
CONTEXT_TOKENS = 6  # tokens decoded along with the new ones, because decoders treat the start of a text specially
MAX_HELD_TOKENS = 16  # a character has at most 4 bytes; a longer run without a character border is not text


class IncrementalDetokenizer:
    """Text of a growing sequence of output tokens.

    The pieces returned by `add` and `finish` joined are `decode(output tokens)`, as the continuation of the prompt.
    Bytes of a character that is not complete are held back until it is, or until `MAX_HELD_TOKENS` tokens wait.

    Args:
        decode: token ids to text; bytes that are not UTF-8 become U+FFFD.
        prompt: token ids that precede the output (a few at its end are enough).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        context = [int(token) for token in prompt[-CONTEXT_TOKENS:]]
        text = decode(context) if context else ""
        # A prompt that ends inside a character cannot be a border; the output then stands alone.
        if text.endswith(REPLACEMENT):
            context, text = [], ""
        self._context, self._context_text = context, text
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._pending.append(token)
        text = self._text()
        incomplete = not text or text.endswith(REPLACEMENT)
        return "" if incomplete and len(self._pending) < MAX_HELD_TOKENS else self._advance(text)

    def finish(self) -> str:
        """The text that is still held back; incomplete characters come out as U+FFFD."""
        return self._advance(self._text()) if self._pending else ""

    def _text(self) -> str:
        return self._decode(self._context + self._pending)[len(self._context_text) :]

    def _advance(self, text: str) -> str:
        if text:
            self._context = self._pending[-CONTEXT_TOKENS:]
            self._context_text = self._decode(self._context)
            self._pending = []
        return text
