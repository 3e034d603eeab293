"""The control loop with the compiled scheduler and a stand-in for the model."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from support import stand_ins as serving
from tokenspeed.engine.loop.events import Admitted, Text
from tokenspeed.scheduler import Scheduler

PROMPTS = st.lists(st.sampled_from([b"aaaa", b"bbbb", b"cccc", b"d", b"ee"]), min_size=1, max_size=6).map(b"".join)


@given(
    requests=st.lists(
        st.tuples(PROMPTS, st.integers(1, 12), st.sampled_from([None, None, None, 0, 1, 5])), max_size=12
    ),
    overlap=st.integers(0, 2),
    blocks=st.integers(10, 40),
    budget=st.sampled_from([4, 16]),
    cache=st.booleans(),
    host_blocks=st.sampled_from([0, 4, 40]),
)
# Not shrunk: a request that is stuck takes its time to be found.
@settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_output_is_a_function_of_the_prompt_whatever_else_runs(
    requests: list[tuple[bytes, int, int | None]],
    overlap: int,
    blocks: int,
    budget: int,
    cache: bool,
    host_blocks: int,
) -> None:
    config = serving.small_config(
        num_blocks=blocks,
        max_running=4,
        max_step_tokens=budget,
        overlap_depth=overlap,
        prefix_cache=cache,
        num_host_blocks=host_blocks if cache else 0,
    )
    engine = serving.LoopHarness(config, rule=serving.hashed)
    for number, (prompt, tokens, abort_after) in enumerate(requests):
        engine.submit(number, prompt, max_tokens=tokens)
        if abort_after is not None:
            if abort_after and abort_after < tokens:
                engine.wait_for_tokens(number, abort_after)
            engine.loop.abort(number)
    engine.wait(*range(len(requests)))
    for number, (prompt, tokens, abort_after) in enumerate(requests):
        expected = serving.expected_text(prompt, tokens)
        if engine.reason(number) == "length":
            assert (engine.text(number), engine.tokens(number)) == (expected, tokens)
        else:
            assert engine.reason(number) == "abort" and abort_after is not None
            assert expected.startswith(engine.text(number))
    engine.close()


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_pages_come_back_from_the_host_as_they_went(overlap: int) -> None:
    config = serving.small_config(num_blocks=16, max_running=4, overlap_depth=overlap, num_host_blocks=64)
    engine = serving.LoopHarness(config, rule=serving.hashed)
    engine.runner.copy_seconds = 0.002  # several steps pass meanwhile
    prompts = [bytes([65 + number]) * 20 for number in range(6)]
    for turn in range(3):
        for number, prompt in enumerate(prompts):
            engine.submit(10 * turn + number, prompt, max_tokens=16)
        engine.wait(*(10 * turn + number for number in range(len(prompts))))
        for number, prompt in enumerate(prompts):
            assert engine.text(10 * turn + number) == serving.expected_text(prompt, 16)
    engine.close()
    stats = engine.scheduler.stats()
    assert stats.spills > 0 and stats.fetches > 0 and stats.copies_in_flight == 0


def test_a_copy_that_fails_ends_the_engine() -> None:
    engine = serving.LoopHarness(serving.small_config(num_blocks=12, max_running=4, num_host_blocks=8))

    def fail(batch: object) -> None:
        raise OSError("the host is gone")

    engine.runner.copy = fail  # type: ignore[method-assign]
    for number in range(6):
        engine.submit(number, bytes([65 + number]) * 20, max_tokens=16)
    assert engine.failed.wait(30)
    engine.wait(*range(6))
    assert "error" in {engine.reason(number) for number in range(6)}
    assert engine.loop.close(30)


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_retracted_requests_lose_nothing(overlap: int) -> None:
    config = serving.small_config(num_blocks=12, max_running=4, overlap_depth=overlap)
    engine = serving.LoopHarness(config, rule=serving.hashed)
    prompts = [bytes([65 + i] * 6) for i in range(4)]
    for number, prompt in enumerate(prompts):
        engine.submit(number, prompt, max_tokens=30)
    engine.wait(0, 1, 2, 3)
    for number, prompt in enumerate(prompts):
        expected = serving.expected_text(prompt, 30)
        assert engine.text(number) == expected
        assert sum(isinstance(event, Admitted) for event in engine.outputs[number]) == 1
    assert engine.scheduler.stats().retractions > 0
    engine.close()


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_a_step_is_launched_before_those_ahead_of_it_are_done(overlap: int) -> None:
    engine = serving.LoopHarness(serving.small_config(overlap_depth=overlap), rule=serving.hashed)
    engine.runner.hold()
    engine.submit(1, b"abcdefgh" * 20, max_tokens=8)  # three chunks, of which two sample nothing
    while engine.snapshot().stats.steps_in_flight <= overlap or engine.runner.most_launched <= overlap:
        pass
    assert engine.snapshot().stats.steps_in_flight == engine.runner.most_launched == overlap + 1
    engine.runner.release()
    engine.wait(1)
    assert engine.runner.most_launched == overlap + 1
    assert engine.text(1) == serving.expected_text(b"abcdefgh" * 20, 8)
    engine.close()


def test_end_token_stop_token_and_stop_string() -> None:
    engine = serving.LoopHarness(serving.small_config())
    engine.submit(1, b"say:one two|", max_tokens=50)
    engine.submit(2, b"say:one two|", max_tokens=50, stop_token_ids=(ord("t"),))
    engine.submit(3, b"say:one two|", max_tokens=50, stop=("wo", "never"))
    engine.submit(4, b"say:one two|", max_tokens=50, stop=("two!",))
    engine.submit(5, b"say:one two|", max_tokens=5)
    engine.submit(6, b"say:one two|", max_tokens=9, ignore_eos=True)
    engine.wait(1, 2, 3, 4, 5, 6)
    seen = {number: (engine.text(number), engine.reason(number), engine.tokens(number)) for number in range(1, 7)}
    assert seen == {
        1: ("one two", "stop", 8),  # the end token counts as a token but has no text
        2: ("one ", "stop", 5),
        3: ("one t", "stop", 7),
        4: ("one two", "stop", 8),  # "two" was held back as a possible stop string
        5: ("one t", "length", 5),
        6: ("one two", "length", 9),
    }
    engine.close()


def test_stop_string_across_tokens_is_never_shown() -> None:
    engine = serving.LoopHarness(serving.small_config())
    engine.submit(1, b"say:abc---END---def|", max_tokens=50, stop=("--END--",))
    engine.wait(1)
    assert engine.text(1) == "abc-"
    shown = ""
    for event in engine.outputs[1]:
        shown += event.text if isinstance(event, Text) else ""
        assert "abc-".startswith(shown)
    engine.close()


def test_all_requests_of_a_step_are_published_together() -> None:
    engine = serving.LoopHarness(serving.small_config(overlap_depth=0))
    engine.runner.hold()
    for number in range(8):
        engine.submit(number, b"abc%d" % number, max_tokens=20, ignore_eos=True)
    for number in range(8):
        while not engine.outputs[number]:
            engine.snapshot()
    engine.runner.release()
    engine.wait(*range(8))
    with_tokens = [outputs for outputs in engine.published if any(isinstance(event, Text) for event in outputs)]
    # The first step may have been planned for the first request alone; the others then run one step behind it.
    assert len(with_tokens) <= 21
    assert sum(len(outputs) for outputs in with_tokens) >= 160
    engine.close()


def test_idle_loop_does_nothing() -> None:
    config = serving.small_config()
    calls: list[str] = []

    class Counting:
        def __init__(self) -> None:
            self.real = Scheduler(config)

        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(self.real, name)

    engine = serving.LoopHarness(config, scheduler=Counting())
    engine.submit(1, b"abc", max_tokens=3)
    engine.wait(1)
    engine.snapshot()
    before = len(calls)
    threading.Event().wait(0.3)
    assert len(calls) == before
    engine.close()


def test_abort_while_a_step_is_in_flight() -> None:
    engine = serving.LoopHarness(serving.small_config())
    engine.submit(1, b"abcdefgh", max_tokens=100, ignore_eos=True)
    engine.submit(2, b"abcdefgh", max_tokens=10, ignore_eos=True)
    engine.wait_for_tokens(1, 2)
    engine.runner.hold()
    while engine.snapshot().stats.steps_in_flight < 2:
        pass
    engine.loop.abort(1)
    engine.wait(1)  # at once, though its steps are still being executed
    assert engine.snapshot().stats.held_blocks > 0
    engine.loop.abort(1)  # again, and of a request that never was: nothing happens
    engine.loop.abort(77)
    engine.runner.release()
    engine.wait(2)
    assert engine.reason(2) == "length"
    engine.close()


def test_closing_ends_running_requests() -> None:
    engine = serving.LoopHarness(serving.small_config())
    engine.submit(1, b"abcdefgh", max_tokens=500, ignore_eos=True)
    engine.wait_for_tokens(1, 1)
    engine.close()
    assert engine.reason(1) == "abort"
    assert engine.loop.close(1), "closing twice is fine"
