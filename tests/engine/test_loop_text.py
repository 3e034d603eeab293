"""Output text, token by token: no character is cut, no part of a stop string is shown, nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support import stand_ins as serving
from tokenspeed.engine.text.detokenizer import MAX_HELD_TOKENS, WindowDetokenizer
from tokenspeed.engine.text.stop_strings import StopMatcher


def decode_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def pieces_of(text: bytes, prompt: bytes = b"") -> list[str]:
    detokenizer = WindowDetokenizer(decode_bytes, list(prompt))
    return [*(detokenizer.add(byte) for byte in text), detokenizer.finish()]


@given(st.text(max_size=40), st.text(max_size=10))
def test_pieces_are_the_whole_text(text: str, prompt: str) -> None:
    pieces = pieces_of(text.encode(), prompt.encode())
    assert "".join(pieces) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=40))
def test_no_piece_shows_half_a_character(text: str) -> None:
    assert not any("\ufffd" in piece for piece in pieces_of(text.encode()))


@given(st.binary(max_size=60), st.binary(max_size=4))
@example(b"\x80" * 60, b"")
def test_bytes_that_are_no_text_never_stop_the_stream(data: bytes, prompt: bytes) -> None:
    pieces = pieces_of(data, prompt)
    assert all(any(pieces[i : i + MAX_HELD_TOKENS]) for i in range(len(data) - MAX_HELD_TOKENS))
    if b"\xff" not in data and all(byte < 128 for byte in data):
        assert "".join(pieces) == data.decode()


def test_incomplete_end_becomes_a_replacement_character() -> None:
    assert pieces_of("aé".encode()[:-1]) == ["a", "", "\ufffd"]


def test_prompt_that_ends_within_a_character_costs_no_text() -> None:
    def decode(ids: Sequence[int]) -> str:
        """As decoders with a byte fallback do it: one replacement for each byte of a run that is not UTF-8."""
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "".join(chr(byte) if byte < 128 else "\ufffd" for byte in ids)

    parrot = "🦜".encode()
    detokenizer = WindowDetokenizer(decode, list(parrot[:2]))
    pieces = [*(detokenizer.add(byte) for byte in [*parrot[2:], *b"ab"]), detokenizer.finish()]
    assert "".join(pieces).endswith("ab")


def test_decoder_that_strips_the_first_space_keeps_it_after_a_prompt() -> None:
    words = [" the", " cat", " sat"]

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[i] for i in ids).removeprefix(" ")

    detokenizer = WindowDetokenizer(decode, [0])
    assert [detokenizer.add(1), detokenizer.add(2)] == [" cat", " sat"]


def test_hugging_face_decoder_joins_bytes() -> None:
    tokenizer = serving.byte_tokenizer()
    text = "naïve 🦜 日本"
    detokenizer = WindowDetokenizer(tokenizer.decode, tokenizer.encode("x").tolist())
    assert "".join(detokenizer.add(token) for token in tokenizer.encode(text).tolist()) == text


SMALL_TEXT = st.text(alphabet="ab ", max_size=12)
STOPS = st.lists(st.text(alphabet="ab ", min_size=1, max_size=4), max_size=3)


def before_first_stop(text: str, stops: Sequence[str]) -> str:
    """The law: cut before the stop string that is completed first, the longest one if several are."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@given(st.lists(SMALL_TEXT, max_size=8), STOPS)
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown = "".join([*(matcher.feed(piece) for piece in pieces), matcher.finish()])
    text = "".join(pieces)
    assert shown == before_first_stop(text, stops)
    assert (matcher.matched is not None) == any(stop in text for stop in stops)


@given(st.lists(SMALL_TEXT, max_size=8), STOPS)
def test_text_is_held_only_while_it_may_become_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    matcher, arrived, shown = StopMatcher(stops), "", ""
    for piece in pieces:
        arrived += piece
        shown += matcher.feed(piece)
        if matcher.matched is not None:
            return
        held = arrived[len(shown) :]
        assert arrived.startswith(shown)
        assert not held or any(stop.startswith(held) for stop in stops)


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])
