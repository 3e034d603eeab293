"""Finds where a JSON value ends in text that arrives in pieces, without parsing it twice."""

from __future__ import annotations

import re
from typing import Final

_STRING_STOP: Final = re.compile(r'["\\]')
_STRUCTURE: Final = re.compile(r'["\[\]{}]')


class JsonValue:
    """One object, array or string. `feed` returns what belongs to it, until `done`."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int:
        """How many characters of `text` belong to the value; fewer than all means that it is complete."""
        at = 0
        if self._escaped and text:
            self._escaped = False
            at = 1
        while at < len(text) and not self.done:
            if self._in_string:
                match = _STRING_STOP.search(text, at)
                if match is None:
                    return len(text)
                at = match.end()
                if match[0] == "\\":
                    self._escaped = at == len(text)
                    at = min(at + 1, len(text))
                else:
                    self._in_string = False
                    self.done = self._depth == 0
            else:
                match = _STRUCTURE.search(text, at)
                if match is None:
                    return len(text)
                at = match.end()
                if match[0] == '"':
                    self._in_string = True
                else:
                    self._depth += 1 if match[0] in "[{" else -1
                    self.done = self._depth <= 0
        return at
