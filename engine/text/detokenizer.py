"""Turns output tokens into text one token at a time, without ever cutting a multi-byte character."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

REPLACEMENT: Final = "\ufffd"  # what decoders write for bytes that are not (yet) UTF-8
CONTEXT_TOKENS: Final = 6  # decoded along with the new tokens, because decoders treat the start of a text specially
MAX_HELD_TOKENS: Final = 16  # a character has at most 4 bytes; a longer run without a character border is not text


class Detokenizer(Protocol):
    """Text of a growing sequence of output tokens. The pieces joined are the decoded output."""

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        ...

    def finish(self) -> str:
        """The text that is still held back; incomplete characters come out as U+FFFD."""
        ...


class ByteDetokenizer:
    """For tokens that are bytes (byte-level BPE): each token costs the same, whatever came before.

    The pieces joined are exactly what the tokenizer's own `decode` makes of all tokens at once.

    Args:
        token_bytes: the bytes of each token id; empty for tokens without text. Ids beyond it have no text.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        return self._decoder.decode(self._token_bytes[token]) if token < len(self._token_bytes) else ""

    def finish(self) -> str:
        """The text that is still held back; incomplete characters come out as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For any decoder: decodes a short window at the end of the sequence and takes what is new in it.

    The pieces joined are `decode(output tokens)`, as the continuation of the prompt, as long as no more than
    `MAX_HELD_TOKENS` tokens in a row are needed for one character.

    Args:
        decode: token ids to text; bytes that are not UTF-8 become U+FFFD.
        prompt: token ids that precede the output (a few at its end are enough).
        silent: token ids that `decode` leaves out.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = (), silent: Collection[int] = ()
    ) -> None:
        self._decode = decode
        self._silent = silent
        context = [int(token) for token in prompt[-CONTEXT_TOKENS:]]
        text = decode(context) if context else ""
        # A prompt that ends inside a character cannot be a border; the output then stands alone.
        if text.endswith(REPLACEMENT):
            context, text = [], ""
        self._context, self._context_text = context, text
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        if token in self._silent:
            return ""
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
        # Tokens that say nothing after so long (a decoder may leave out some that are not special) are let go of too.
        self._context = self._pending[-CONTEXT_TOKENS:]
        self._context_text = self._decode(self._context)
        self._pending = []
        return text
