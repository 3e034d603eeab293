"""Runs the cases on this project's scheduler and prints the figures as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tokenspeed.scheduler import Scheduler, SchedulerConfig, StepPlan

sys.path.insert(0, str(Path(__file__).parent))
import cases

RESULTS = [np.full(n, cases.TOKEN, dtype=np.int32) for n in range(257)]


class Ours:
    """Adapter of the compiled scheduler."""

    def __init__(self, blocks: int, budget: int) -> None:
        config = SchedulerConfig(
            num_blocks=blocks, block_size=cases.PAGE, max_running=256, max_step_tokens=budget, overlap_depth=0
        )
        self.scheduler = Scheduler(config)

    def prompt(self, tokens: list[int]) -> Any:
        return np.array(tokens, dtype=np.int32)

    def submit(self, request_id: int, tokens: Any, max_new_tokens: int) -> None:
        self.scheduler.submit(request_id, tokens, max_new_tokens)

    def plan(self) -> tuple[StepPlan, Any] | None:
        plan = self.scheduler.plan()
        if plan is None:
            return None
        return plan, (plan.slots, plan.num_tokens, plan.input_ids, plan.positions, plan.table_slots, plan.table_blocks)

    def land(self, plan: tuple[StepPlan, Any]) -> Any:
        self.scheduler.land(plan[0].step, RESULTS[plan[0].sampling_rows])
        return plan[0].request_ids[plan[0].outputs > 0].tolist()


class FromLists(Ours):
    """The same, with prompts as Python lists."""

    def prompt(self, tokens: list[int]) -> Any:
        return tokens


if __name__ == "__main__":
    figures = cases.run(Ours, quick="--quick" in sys.argv)
    figures["turn of 50000 from Python lists"] = cases.turn(FromLists, 50_000, 9)
    print(json.dumps(figures))
