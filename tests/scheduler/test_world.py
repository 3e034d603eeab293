"""Random programs against a device with memory: every plan is checked, and every token that is read.

`TOKENSPEED_WORLDS` is how many programs each setting runs (10,000 are for a night).
"""

from __future__ import annotations

import os
import random
import zlib

import pytest

from support.scheduler_world import World, next_token
from tokenspeed.scheduler import SchedulerConfig

WORLDS = int(os.environ.get("TOKENSPEED_WORLDS", "30"))


def config(choose: random.Random, overlap_depth: int, host: bool, drafts: bool) -> SchedulerConfig:
    max_running = choose.randint(1, 5)
    return SchedulerConfig(
        num_blocks=choose.randint(3, 12),
        block_size=choose.randint(1, 4),
        max_running=max_running,
        max_step_tokens=max_running + choose.randint(0, 10),
        overlap_depth=overlap_depth,
        prefix_cache=host or choose.random() < 0.8,
        num_host_blocks=choose.randint(1, 8) if host else 0,
        host_copy_tokens_per_s=choose.choice([1e3, 1e5, 1e7]),
        max_retractions=choose.randint(0, 3),
        max_draft_tokens=choose.randint(1, 4) if drafts else 0,
    )


def mixed(text: list[int], most: int) -> list[int]:
    """Right for a while, then wrong, then perhaps right again."""
    drafts: list[int] = []
    for i in range(zlib.crc32(bytes(text)) % (most + 1)):
        right = next_token([*text, *drafts])
        drafts.append(right if (len(text) + i) % 3 else (right + 1) % 3)
    return drafts


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("overlap_depth", [0, 1, 2])
def test_every_plan_and_every_read_is_what_it_should_be(overlap_depth: int, host: bool, drafts: bool) -> None:
    reads = retractions = matched = fetched = accepted = 0
    for seed in range(WORLDS):
        choose = random.Random(f"{overlap_depth} {host} {drafts} {seed}")
        world = World(config(choose, overlap_depth, host, drafts), seed, mixed if drafts else None)
        for _ in range(150):
            world.act()
        world.drain()
        stats = world.scheduler.stats()
        reads, retractions = reads + world.reads, retractions + world.retractions
        matched, fetched = matched + stats.prefix_hit_tokens, fetched + stats.host_hit_tokens
        accepted += stats.accepted_draft_tokens
    assert reads > 100 * WORLDS and matched > WORLDS, "the programs do something"
    assert (fetched > 0) == host and (accepted > 0) == drafts
    assert retractions > 0 or WORLDS < 30
