"""Drafts change how fast the tokens of a request come, never which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from support import stand_ins as serving
from tokenspeed.engine.run.drafts import Drafter, History, SuffixDrafter
from tokenspeed.engine.run.step_result import SampledRows

pytestmark = pytest.mark.serve

Text = NDArray[np.int32]


class Oracle:
    """Right up to the draft with number `wrong_from`, then wrong."""

    def __init__(self, rule: Callable[[Text], int], wrong_from: int) -> None:
        self._rule = rule
        self._wrong_from = wrong_from

    def propose(self, text: Text, most: int) -> Text:
        drafts: list[int] = []
        while len(drafts) < most:
            token = self._rule(np.append(text, np.array(drafts, dtype=np.int32)))
            drafts.append(token if len(drafts) < self._wrong_from else (token + 1) % 95)
        return np.array(drafts, dtype=np.int32)


DRAFTERS: dict[str, Drafter] = {
    "right": Oracle(serving.scripted, 99),
    "wrong": Oracle(serving.scripted, 0),
    "wrong at 1": Oracle(serving.scripted, 1),
    "wrong at 2": Oracle(serving.scripted, 2),
    "suffix": SuffixDrafter(),
}
PROMPTS = [b"say:la la la la la la la la la|", b"say:one two|", b"abcabcabc", b"say:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|"]


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_whoever_drafts_the_text_is_the_same(drafter: str, overlap: int) -> None:
    config = serving.small_config(num_blocks=40, max_running=4, overlap_depth=overlap, max_draft_tokens=3)
    engine = serving.LoopHarness(config, drafter=DRAFTERS[drafter])
    for number, prompt in enumerate(PROMPTS):
        engine.submit(number, prompt, max_tokens=25)
    engine.wait(*range(len(PROMPTS)))
    steps = engine.snapshot().stats.steps
    for number, prompt in enumerate(PROMPTS):
        expected = serving.expected_text(prompt, 25, serving.scripted)
        assert engine.text(number) == expected
        assert engine.tokens(number) == min(len(expected) + (engine.reason(number) == "stop"), 25)
    if drafter == "right":
        assert steps < 25
    engine.close()


def test_a_stop_among_the_drafts_ends_the_request_there() -> None:
    config = serving.small_config(max_draft_tokens=8)
    engine = serving.LoopHarness(config, drafter=DRAFTERS["right"])
    engine.submit(1, b"say:abc---END---def|", max_tokens=50, stop=("--END",))
    engine.wait(1)
    assert (engine.text(1), engine.reason(1), engine.tokens(1)) == ("abc-", "stop", 9)
    engine.close()


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_the_longest_repeated_end_is_continued(tokens: list[int], shortest: int, most: int) -> None:
    text = np.array(tokens, dtype=np.int32)
    drafts = SuffixDrafter(shortest).propose(text, most).tolist()
    # By definition: the longest suffix that occurs earlier, and the last place where it does.
    for length in range(min(len(tokens) - 1, 32), shortest - 1, -1):
        places = [at for at in range(len(tokens) - length) if tokens[at : at + length] == tokens[-length:]]
        if places:
            assert drafts == tokens[places[-1] + length :][:most]
            return
    assert drafts == []


def test_a_match_of_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="shortest=0"):
        SuffixDrafter(0)


def test_a_history_grows_behind_its_prompt() -> None:
    history = History(np.array([5, 6], dtype=np.int32), 2)
    history.add(7)
    history.add(8)
    assert history.text.tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(("drafts", "kept"), [([4, 5], [4, 5, 6]), ([4, 9], [4, 5]), ([9, 5], [4]), ([], [4])])
def test_results_stand_while_the_drafts_before_them_were_right(drafts: list[int], kept: list[int]) -> None:
    tokens = np.array([1, 4, 5, 6][: 2 + len(drafts)], dtype=np.int32)
    healthy: Any = np.ones(len(tokens), dtype=np.bool_)
    rows = SampledRows(np.array([0, 1]), [np.empty(0, dtype=np.int32), np.array(drafts, dtype=np.int32)])
    result = rows.accept(tokens, healthy)
    assert result.tokens.tolist() == [1, *kept]
    assert result.counts.tolist() == [1, len(kept)]
    healthy[-1] = False  # matters only if that result stands
    assert rows.accept(tokens, healthy).healthy.tolist() == [True, len(kept) <= len(drafts)]
