"""Prompts to tokens: text of users stays text, and only what is new since the last turn is encoded.

A rendered prompt is cut into units, each an added token of the vocabulary with the plain text behind it. Units are
encoded alone and remembered, so that a turn of a long session costs what the turn adds. Text of users is marked before
it is rendered, wherever it spells an added token: the mark keeps it from being found there, and is gone after the
encoding.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .tokenizer import Tokenizer

_ESCAPE: Final = "\ufdd0"  # a noncharacter, which no text should have; one that has it gets it back
_BREAK: Final = _ESCAPE + "\ufdd1"
_LITERAL: Final = _ESCAPE + "\ufdd2"
_BATCH_CHARACTERS: Final = 2**18


class PromptTooLong(ValueError):
    """The prompt has more tokens than allowed. `tokens`: how many at least."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"the prompt has at least {tokens} tokens")
        self.tokens = tokens


class PromptEncoder:
    """Encodes rendered prompts of one model. Safe to use from several threads.

    Args:
        tokenizer: the model's.
        cache_bytes: memory for units that were encoded before, their text included.
    """

    def __init__(self, tokenizer: Tokenizer, cache_bytes: int = 64 * 2**20) -> None:
        self._tokenizer = tokenizer
        self._added = _any_of(tokenizer.added_tokens)
        self._exact = tokenizer.exact_units
        self._room = cache_bytes
        self._units: OrderedDict[str, NDArray[np.int32]] = OrderedDict()
        self._lock = threading.Lock()

    def protect(self, text: str, keep: Iterable[str] = ()) -> str:
        """`text` marked so that `encode` takes it as text, whatever it spells, save the added tokens in `keep`."""
        text = text.replace(_ESCAPE, _LITERAL)
        kept = frozenset(keep)

        def broken(match: re.Match[str]) -> str:
            token = match[0]
            # One character cannot be broken, and vocabularies write runs of white space as tokens that open nothing.
            whole = token in kept or len(token) == 1 or token.isspace()
            return token if whole else token[0] + _BREAK + token[1:]

        while True:
            marked = self._added.sub(broken, text)
            if marked == text:
                return text
            text = marked

    def encode(self, rendered: str, max_tokens: int) -> NDArray[np.int32]:
        """Token ids, int32 [n], of a prompt made of template text and `protect`ed text.

        Nothing is added around it; halves of surrogate pairs, which no encoding has, become question marks. Raises
        PromptTooLong, before all of it is encoded, if n > max_tokens.
        """
        rendered = rendered.encode("utf-8", "replace").decode("utf-8")
        self.check_length(rendered, max_tokens)
        if not self._exact:
            pieces = [_plain(piece) for piece in rendered.split(_BREAK)]
            parts = self._tokenizer.encode_batch([p for p in pieces if p], add_special_tokens=False)
            return _joined(parts, max_tokens)
        units = self._cut(rendered)
        known: list[NDArray[np.int32] | None]
        with self._lock:
            known = [self._units.get(unit) for unit in units]
            for unit, ids in zip(units, known, strict=True):
                if ids is not None:
                    self._units.move_to_end(unit)
        total = sum(len(ids) for ids in known if ids is not None)
        batch: list[int] = []
        size = 0
        for place, unit in enumerate(units):
            if known[place] is not None:
                continue
            batch.append(place)
            size += len(unit)
            if size > _BATCH_CHARACTERS:
                total += self._fill(units, known, batch)
                batch, size = [], 0
                if total > max_tokens:
                    raise PromptTooLong(total)
        self._fill(units, known, batch)
        return _joined([ids for ids in known if ids is not None], max_tokens)

    def check_length(self, text: str, max_tokens: int) -> None:
        """Raise PromptTooLong if `text` has more tokens than allowed whatever they are: every token is short."""
        longest = self._tokenizer.longest_token
        if longest is not None and (fewest := -(-len(text.encode(errors="replace")) // longest)) > max_tokens:
            raise PromptTooLong(fewest)

    def _cut(self, rendered: str) -> list[str]:
        borders = [0, *(match.start() for match in self._added.finditer(rendered)), len(rendered)]
        return [rendered[start:end] for start, end in itertools.pairwise(borders) if start < end]

    def _fill(self, units: list[str], known: list[NDArray[np.int32] | None], places: list[int]) -> int:
        """Encode the units at `places` and remember them. Returns how many tokens they have."""
        if not places:
            return 0
        new = self._encode_units([units[place] for place in places])
        with self._lock:
            for place, ids in zip(places, new, strict=True):
                known[place] = ids
                if units[place] not in self._units:
                    self._units[units[place]] = ids
                    self._room -= _cost(units[place], ids)
            while self._room < 0:
                unit, ids = self._units.popitem(last=False)
                self._room += _cost(unit, ids)
        return sum(map(len, new))

    def _encode_units(self, units: list[str]) -> list[NDArray[np.int32]]:
        """A unit with marks is encoded in pieces, each behind the unit's added token, which is then taken off again."""
        texts: list[str] = []
        pieces_of: list[tuple[int, int]] = []
        for unit in units:
            lead = match[0] if (match := self._added.match(unit)) else ""
            first, *rest = unit.split(_BREAK)
            pieces = [_plain(first), *(lead + _plain(piece) for piece in rest)]
            pieces_of.append((len(pieces), 1 if lead else 0))
            texts += pieces
        encoded = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        result = []
        for count, leading in pieces_of:
            parts = [next(encoded), *(next(encoded)[leading:] for _ in range(count - 1))]
            result.append(parts[0] if count == 1 else np.concatenate(parts))
        return result


def _plain(text: str) -> str:
    return text.replace(_LITERAL, _ESCAPE)


def _cost(unit: str, ids: NDArray[np.int32]) -> int:
    return 2 * len(unit) + ids.nbytes + 200


def _joined(parts: list[NDArray[np.int32]], max_tokens: int) -> NDArray[np.int32]:
    ids: NDArray[np.int32] = np.concatenate([np.empty(0, dtype=np.int32), *parts])
    if len(ids) > max_tokens:
        raise PromptTooLong(len(ids))
    return ids


class _Node(dict[str, "_Node"]):
    """A tree of beginnings; the key "" says that a word ends here."""


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of `words` at a place, through a tree of their beginnings (there may be a thousand)."""
    tree = _Node()
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, _Node())
        node[""] = _Node()
    return re.compile(_pattern(tree)) if tree else re.compile(r"(?!)")


def _pattern(node: _Node) -> str:
    branches = []
    for character, below in node.items():
        text = re.escape(character)
        while character and len(below) == 1 and "" not in below:
            [(character, below)] = below.items()
            text += re.escape(character)
        if character:
            branches.append(text + (_pattern(below) if set(below) != {""} else ""))
    inside = f"(?:{'|'.join(branches)})" if branches else ""
    return f"(?:{inside})?" if "" in node and inside else inside
