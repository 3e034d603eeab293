"""The prefix hash is the one that its probability argument is about; the prefix table is a map."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

P = 2**127 - 1
WORD = 2**64


@pytest.fixture(scope="module")
def program(build_program: Callable[[str], Path]) -> Path:
    return build_program("prefix_hash")


def answers(program: Path, page: int, point: int, words: list[int], tokens: list[int]) -> list[tuple[int, int]]:
    """(high, low) of each whole page's prefix, from the C++."""
    command = [str(program), "hash", str(page), str(point >> 64), str(point % WORD), *map(str, words)]
    done = subprocess.run(command, input=" ".join(map(str, tokens)), check=True, stdout=subprocess.PIPE, text=True)
    return [(int(a), int(b)) for a, b in (line.split() for line in done.stdout.splitlines())]


def nh(words: list[int], key: list[int]) -> int:
    """NH of the UMAC paper with words of 64 bits."""
    pairs = range(0, len(words), 2)
    return sum((words[i] + key[i]) % WORD * ((words[i + 1] + key[i + 1]) % WORD) for i in pairs) % 2**128


def by_the_book(page: int, point: int, key: list[int], tokens: list[int]) -> list[tuple[int, int]]:
    """The polynomial whose coefficients are two NH sums of each segment, with integers of any size."""
    hashes, value = [], 1
    for end in range(page, len(tokens) + 1, page):
        content = tokens[end - page : end]
        for start in range(0, page, 256):
            segment = content[start : start + 256]
            segment += [0] * (-len(segment) % 4)
            words = [segment[i] + (segment[i + 1] << 32) for i in range(0, len(segment), 2)]
            value = (value * point + nh(words, key)) % P
            value = (value * point + nh(words, key[2:])) % P
        hashes.append((value >> 64, value % WORD))
    return hashes


EXTREMES = st.sampled_from([0, 1, 2**31 - 1])
WORDS = st.integers(0, WORD - 1) | st.sampled_from([0, 1, WORD - 1, WORD - 2**32])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hash_is_the_polynomial_of_nh_sums(program: Path, data: st.DataObject) -> None:
    page = data.draw(st.integers(1, 12) | st.sampled_from([64, 255, 256, 257, 513]))
    needed = 2 * ((min(page, 256) + 3) // 4) + 2
    point = data.draw(st.integers(0, P - 1) | st.sampled_from([0, 1, P - 1]))
    words = data.draw(st.lists(WORDS, min_size=needed, max_size=needed))
    length = data.draw(st.integers(0, 3)) * page + data.draw(st.integers(0, page - 1))
    pattern = data.draw(st.lists(st.integers(0, 2**31 - 1) | EXTREMES, min_size=1, max_size=20))
    tokens = [pattern[i % len(pattern)] for i in range(length)]
    assert answers(program, page, point, words, tokens) == by_the_book(page, point, words, tokens)


@pytest.mark.parametrize("seed", range(3))
def test_prefix_table_agrees_with_a_map(program: Path, seed: int) -> None:
    done = subprocess.run([str(program), "table", str(seed), "4000"], stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) > 64, "it grew several times"
