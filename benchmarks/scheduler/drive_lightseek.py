"""Runs the cases on PyPI's `tokenspeed-scheduler` (LightSeek's TokenSpeed) and prints the figures as JSON.

Runs in an environment of its own, which `__main__.py` makes. Mixed prefill and decode is on, as in ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tokenspeed_scheduler as peer

sys.path.insert(0, str(Path(__file__).parent))
import cases


class LightSeek:
    """Adapter of the peer: one full-attention cache group, no host tier."""

    def __init__(self, blocks: int, budget: int) -> None:
        config = peer.SchedulerConfig()
        config.max_scheduled_tokens = budget
        config.max_batch_size = 256
        config.overlap_schedule_depth = 0
        config.prefix_granularity = cases.PAGE
        config.num_device_pages = blocks + 1
        config.num_snapshot_pages = 1
        config.disable_l2_cache = True
        config.enable_mixed_prefill_decode = True
        config.decode_input_tokens = 1
        config.role = peer.SchedulerConfig.Role.Fused
        config.cache_groups = [peer.CacheGroupConfig("full", cases.PAGE, blocks + 1, peer.AttnKind.Full)]
        self.scheduler = peer.Scheduler(config)
        self.left: dict[str, int] = {}

    def prompt(self, tokens: list[int]) -> Any:
        return tokens

    def submit(self, request_id: int, tokens: Any, max_new_tokens: int) -> None:
        spec = peer.RequestSpec()
        spec.request_id, spec.tokens, spec.max_new_tokens = str(request_id), tokens, max_new_tokens
        self.left[spec.request_id] = max_new_tokens
        self.scheduler.submit_requests([spec])

    def plan(self) -> Any:
        plan = self.scheduler.next_execution_plan()
        if not plan.forward or not plan.forward[0].request_ids:
            return None
        batch = plan.forward[0]
        return batch, batch.request_ids, (batch.request_pool_indices, batch.input_lengths, batch.block_tables_arrays())

    def land(self, plan: Any) -> Any:
        batch, ids, _ = plan
        prefixes, lengths, wanted = batch.extend_prefix_lens, batch.input_lengths, batch.prefill_lengths
        event = peer.ExecutionEvent()
        sampled = []
        for row, request_id in enumerate(ids):
            result = peer.ForwardEvent.ExtendResult()
            result.request_id = request_id
            if row < len(prefixes) and prefixes[row] + lengths[row] < wanted[row]:
                result.tokens = []  # a chunk that is not the last one
            else:
                result.tokens = [cases.TOKEN]
                sampled.append(int(request_id))
                self.left[request_id] -= 1
            event.add_event(result)
            if self.left[request_id] == 0:
                finish = peer.ForwardEvent.Finish()
                finish.request_id = request_id
                event.add_event(finish)
        self.scheduler.advance(event)
        return sampled


if __name__ == "__main__":
    print(json.dumps(cases.run(LightSeek, quick="--quick" in sys.argv)))
