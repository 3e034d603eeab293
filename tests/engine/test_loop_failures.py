"""What goes wrong in the control loop stays with the requests that it belongs to."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import numpy as np
import pytest

from support import stand_ins as serving
from tokenspeed.engine.loop.events import Admitted
from tokenspeed.engine.run.step.result import StepResult
from tokenspeed.engine.text.answer import Answer
from tokenspeed.scheduler import Scheduler, StepPlan


def fail_on(request_id: int) -> Any:
    """Makes every step fail that has a row of the request."""

    def check(plan: StepPlan) -> None:
        if request_id in plan.request_ids:
            raise RuntimeError("device lost")

    return check


def test_failing_step_ends_its_own_requests_only(caplog: pytest.LogCaptureFixture) -> None:
    engine = serving.LoopHarness()
    # The rows of one step share its fate, so the sick request is alone in the first step.
    engine.runner.before_step = fail_on(1)
    engine.runner.hold()
    engine.submit(1, b"sick", max_tokens=5)
    while engine.snapshot().stats.steps_in_flight < 2:
        pass
    engine.submit(2, b"healthy", max_tokens=5)
    engine.runner.release()
    engine.wait(1, 2)
    assert (engine.reason(1), engine.reason(2)) == ("error", "length")
    assert "device lost" not in engine.error(1)
    assert engine.text(2) == serving.expected_text(b"healthy", 5)
    assert "device lost" in caplog.text
    engine.submit(3, b"sick too?", max_tokens=5)
    engine.wait(3)
    assert engine.text(3) == serving.expected_text(b"sick too?", 5)
    engine.close()


def test_failed_step_leaves_nothing_in_the_prefix_cache() -> None:
    engine = serving.LoopHarness()
    prompt = b"a prompt of several blocks, all of them full"
    engine.runner.before_step = fail_on(1)
    engine.submit(1, prompt, max_tokens=5)
    engine.wait(1)
    engine.submit(2, prompt, max_tokens=5)
    engine.wait(2)
    assert engine.text(2) == serving.expected_text(prompt, 5)
    assert [event.cached_tokens for event in engine.outputs[2] if isinstance(event, Admitted)] == [0]
    engine.close()


def test_step_that_cannot_be_launched_ends_its_own_requests_only() -> None:
    engine = serving.LoopHarness(serving.small_config(overlap_depth=0))
    launch = engine.runner.launch

    def refuse(plan: StepPlan, sampling: Any) -> Any:
        raise RuntimeError("out of memory")

    engine.runner.launch = refuse  # type: ignore[method-assign]
    engine.submit(1, b"abc", max_tokens=2)
    engine.wait(1)
    engine.runner.launch = launch  # type: ignore[method-assign]
    engine.submit(2, b"abc", max_tokens=2)
    engine.wait(2)
    assert (engine.reason(1), engine.reason(2)) == ("error", "length")
    engine.close()


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_logits_that_are_not_finite_end_their_own_request_only(overlap: int) -> None:
    engine = serving.LoopHarness(serving.small_config(overlap_depth=overlap))
    compute = engine.runner._run

    def run(step: Any) -> None:
        compute(step)
        sick = step.plan.request_ids[step.plan.outputs > 0] == 1
        step.result = StepResult(np.where(sick, 0, step.result.tokens), step.result.counts, ~sick)

    engine.runner._run = run  # type: ignore[method-assign]
    prompt = b"a prompt of several blocks, all of them full"
    engine.runner.hold()
    engine.submit(1, prompt, max_tokens=9)
    engine.submit(2, prompt[::-1], max_tokens=9)
    engine.runner.release()
    engine.wait(1, 2)
    assert (engine.reason(1), engine.reason(2)) == ("error", "length")
    assert engine.text(2) == serving.expected_text(prompt[::-1], 9)
    engine.submit(3, prompt, max_tokens=9)
    engine.wait(3)
    assert engine.text(3) == serving.expected_text(prompt, 9)
    engine.close()


def test_failures_in_a_row_are_counted_until_a_step_succeeds() -> None:
    engine = serving.LoopHarness(serving.small_config(overlap_depth=0))
    engine.runner.before_step = lambda plan: (_ for _ in ()).throw(RuntimeError("broken"))
    for number in range(3):
        engine.submit(number, b"abc", max_tokens=2)
        engine.wait(number)
    assert engine.loop.failed_steps == 3
    engine.runner.before_step = lambda plan: None
    engine.submit(3, b"abc", max_tokens=2)
    engine.wait(3)
    assert engine.loop.failed_steps == 0
    engine.close()


class Done:
    """A step that was never run, and what it pretends to have given."""

    def __init__(self, tokens: Any, healthy: Any) -> None:
        self.result = StepResult(tokens, np.ones(1, np.int32), healthy)

    def wait(self) -> StepResult:
        return self.result


@pytest.mark.parametrize(
    ("tokens", "healthy"),
    [
        (np.zeros(5, np.int32), np.ones(1, np.bool_)),
        (np.array([-1], np.int32), np.ones(1, np.bool_)),
        (np.zeros((1, 1), np.int32), np.ones(1, np.bool_)),
        (np.zeros(1, np.int32), np.ones(2, np.bool_)),
    ],
)
def test_result_that_does_not_fit_the_step_is_a_failure_of_the_step(tokens: Any, healthy: Any) -> None:
    engine = serving.LoopHarness(serving.small_config(overlap_depth=0))
    launch = engine.runner.launch
    engine.runner.launch = lambda plan, sampling: Done(tokens, healthy)  # type: ignore
    engine.submit(1, b"abc", max_tokens=2)
    engine.wait(1)
    assert engine.reason(1) == "error"
    engine.runner.launch = launch  # type: ignore[method-assign]
    engine.submit(2, b"abc", max_tokens=2)
    engine.wait(2)
    assert engine.reason(2) == "length"
    engine.close()


def test_request_that_the_scheduler_refuses_harms_nobody() -> None:
    engine = serving.LoopHarness(serving.small_config(num_blocks=8))
    engine.submit(1, b"fits", max_tokens=4)
    engine.submit(2, b"far too long", max_tokens=1000)
    engine.submit(3, [5, -1], max_tokens=4)
    engine.submit(4, [], max_tokens=4)
    engine.submit(5, b"fits too", max_tokens=4)
    engine.wait(1, 2, 3, 4, 5)
    assert [engine.reason(n) for n in range(1, 6)] == ["length", "rejected", "rejected", "rejected", "length"]
    assert all(engine.reason(n) == "rejected" and engine.error(n) for n in (2, 3, 4))
    assert engine.text(5) == serving.expected_text(b"fits too", 4)
    engine.close()


def test_request_whose_text_cannot_be_decoded_harms_nobody() -> None:
    def decode(ids: list[int]) -> str:
        if ord("!") in ids:
            raise RuntimeError("no such token")
        return bytes(ids).decode(errors="replace")

    engine = serving.LoopHarness(decode=decode)
    engine.submit(1, b"say:ab!cdefgh|", max_tokens=20)
    engine.submit(2, b"say:abcd|", max_tokens=20)
    engine.wait(1, 2)
    assert (engine.text(1), engine.reason(1)) == ("ab", "error")
    assert (engine.text(2), engine.reason(2)) == ("abcd", "stop")
    engine.close()


def test_request_whose_last_text_cannot_be_decoded_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Answer.finish

    def failing(answer: Answer) -> str:
        if answer.params.max_tokens == 3:
            raise RuntimeError("no such text")
        return finish(answer)

    monkeypatch.setattr(Answer, "finish", failing)
    engine = serving.LoopHarness()
    engine.submit(1, b"say:abcdefgh|", max_tokens=3)
    engine.submit(2, b"say:abcd|", max_tokens=20)
    engine.wait(1, 2)
    assert engine.reason(1) == "error"
    assert (engine.text(2), engine.reason(2)) == ("abcd", "stop")
    engine.close()


def test_scheduler_that_fails_ends_all_requests_and_the_loop_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def __init__(self) -> None:
            self.real = Scheduler(serving.small_config())
            self.broken = False

        def __getattr__(self, name: str) -> Any:
            if name == "plan" and self.broken:
                raise RuntimeError("invariant violated")
            return getattr(self.real, name)

    scheduler = Failing()
    engine = serving.LoopHarness(scheduler=scheduler)
    engine.submit(1, b"abc", max_tokens=500, ignore_eos=True)
    engine.wait_for_tokens(1, 1)
    with caplog.at_level(logging.ERROR):
        scheduler.broken = True
        engine.wait(1)
        assert engine.failed.wait(30)
    assert engine.error(1) == "the engine failed"
    assert "invariant violated" in caplog.text
    engine.submit(2, b"abc", max_tokens=5)  # late arrivals hear of it too
    engine.wait(2)
    assert engine.error(2) == "the engine failed"
    assert engine.snapshot().stats.submitted == 1
    assert engine.loop.close(30)


def test_request_submitted_after_close_is_not_run() -> None:
    engine = serving.LoopHarness()
    busy = threading.Event()
    engine.loop.ask(lambda snapshot: [busy.wait(30)].clear())
    closing = threading.Thread(target=engine.loop.close)
    closing.start()
    time.sleep(0.05)  # the close is in the inbox, and the request behind it
    engine.submit(1, b"abc", max_tokens=5)
    busy.set()
    closing.join(30)
    assert engine.outputs[1] == []
    engine.close()


def test_step_that_hangs_ends_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    engine = serving.LoopHarness(step_timeout=1.5)
    engine.submit(1, b"abc", max_tokens=3)
    engine.wait(1)
    threading.Event().wait(1.6)  # an idle engine has no step that could hang
    engine.submit(2, b"abc", max_tokens=3)
    engine.wait(2)
    assert engine.reason(2) == "length"
    engine.runner.hold()
    engine.submit(3, b"abc", max_tokens=3)
    engine.wait(3)
    assert engine.failed.wait(30)
    assert engine.reason(3) == "error"
    assert "steps in flight ended in 1.5 s" in caplog.text
    engine.runner.release()
    assert engine.loop.close(30)


def test_closing_does_not_wait_for_ever_for_a_step_that_hangs() -> None:
    engine = serving.LoopHarness()
    engine.runner.hold()
    engine.submit(1, b"abc", max_tokens=5)
    while engine.snapshot().stats.steps_in_flight == 0:
        pass
    assert not engine.loop.close(0.1)
    assert engine.reason(1) == "abort"  # its owner does not wait for the step
    engine.close()
