"""Greedy output of scheduler and runner is transformers' output on the same weights, token for token."""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from tokenspeed.engine.checkpoints.checkpoint import Checkpoint
from tokenspeed.engine.models.model import Model
from tokenspeed.engine.run.host_pages import HostPages
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.text.sampling_params import GREEDY
from tokenspeed.scheduler import Scheduler, SchedulerConfig, Stats, StepPlan

FULL = os.environ.get("TOKENSPEED_PARITY") == "full"
"""Every prompt alone in every setting (`make parity`); otherwise some of them, so that CI stays short."""

pytestmark = [pytest.mark.serve, pytest.mark.slow]

hf: Any = transformers  # typed in part only

PROMPT_TOKENS = 64
NEW_TOKENS = 64
BLOCK_SIZE = 16

# Four openings of three blocks and a little, each with five endings: 20 prompts, of which five share a prefix.
OPENINGS = [
    "The lighthouse stood at the far end of the harbour wall, and for as long as anybody in the village could "
    "remember the same family had kept its lamp burning. In the winter of 1953 the keeper's daughter, aged twelve, ",
    "import json\nimport logging\nfrom pathlib import Path\n\nlogger = logging.getLogger(__name__)\n\n\n"
    "def read_records(path: Path) -> list[dict[str, object]]:\n"
    '    """Read one JSON object per line."""\n',
    "Question: A farmer has 17 sheep, 23 goats and 8 cows. On Monday she sells 5 sheep and buys 4 goats. "
    "How many animals are on her farm on the morning of Wednesday?\nAnswer: ",
    "Photosynthesis is the process by which green plants, algae and some bacteria turn the energy of all light into "
    "chemical energy. It has two stages: the light reactions, which happen in the thylakoid membranes, and the Calvin "
    "cycle. ",
]
ENDINGS = [
    [
        "climbed the stairs alone for the first time, because her father had not come home",
        "found a letter under the third step of the spiral staircase, addressed to somebody",
        "was the only person awake when the fishing boats failed to return, so she took the brass key",
        "decided that she would rather be a baker, and told everybody at the breakfast table",
        "began to write down every ship that passed: its name, its colour, the hour, and what",
    ],
    [
        "    with path.open() as lines:\n        for number, line in enumerate(lines, start=1):\n",
        "    for line in path.read_text(encoding='utf-8').splitlines():\n        line = line.strip()\n",
        "    try:\n        text = path.read_text()\n    except FileNotFoundError:\n        logger",
        "    logger.info('reading %s', path)\n    data = path.read_bytes().split(b'\\n')\n    while",
        "    assert path.suffix == '.jsonl', path\n    return [json.loads(line) for line in",
    ],
    [
        "Let us count each kind of animal. Sheep: 17 - 5 = 12. Goats: 23 + 4",
        "At first there are 17 + 23 + 8 animals, which makes 48. After Monday there",
        "We do not know whether she buys any more on Tuesday, so there are two possible",
        "To solve it step by step, write the numbers in a table with one row per day and one",
        "The question asks about Wednesday morning, so all of the changes on Monday have to",
    ],
    [
        "In the first stage, water is split, oxygen is released and the energy of the photons is",
        "The second stage does not need light directly. An enzyme called RuBisCO binds carbon",
        "Not every plant does it in the same way: cacti, for example, open their pores at night",
        "Its discovery took centuries. In 1648 Jan van Helmont planted a willow in a pot of dry",
        "Without it there would be almost no oxygen in the atmosphere, and the food chains of land",
    ],
]


@pytest.fixture(scope="module")
def prompts(smollm2: Checkpoint) -> list[NDArray[np.int32]]:
    texts = [opening + ending for opening, endings in zip(OPENINGS, ENDINGS, strict=True) for ending in endings]
    encoded = [smollm2.tokenizer.encode(text) for text in texts]
    assert min(map(len, encoded)) >= PROMPT_TOKENS
    return [ids[:PROMPT_TOKENS] for ids in encoded]


@pytest.fixture(scope="module")
def transformers_model(smollm2: Checkpoint) -> Any:
    c = smollm2.config
    config = hf.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.declared["intermediate_size"],
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope.theta},
        max_position_embeddings=c.max_position_embeddings,
        tie_word_embeddings=c.tie_word_embeddings,
        hidden_act="silu",
        eos_token_id=None,  # it would stop there
    )
    model = hf.LlamaForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(dict(smollm2.tensors), strict=False)
    assert not unexpected
    assert missing == ["lm_head.weight"]  # tied to the embedding
    return model


@pytest.fixture(scope="module")
def expected(transformers_model: Any, prompts: list[NDArray[np.int32]]) -> list[list[int]]:
    """What transformers generates for each prompt; all are of one length, so that a batch needs no padding."""
    together = reference(transformers_model, prompts)
    for i in (0, 7):
        assert reference(transformers_model, [prompts[i]]) == [together[i]]
    return together


def reference(model: Any, prompts: list[NDArray[np.int32]]) -> list[list[int]]:
    ids = torch.from_numpy(np.stack(prompts).astype(np.int64))
    settings = hf.GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [row.tolist() for row in output[:, ids.shape[1] :]]


class Engine:
    """A scheduler and a runner of the same sizes."""

    def __init__(self, model: Model, config: SchedulerConfig) -> None:
        self.scheduler = Scheduler(config)
        self.runner = ModelRunner(
            model, num_blocks=config.num_blocks, block_size=config.block_size, max_running=config.max_running
        )
        self.host_pages = HostPages(self.runner.cache, config.num_host_blocks) if config.num_host_blocks else None
        self._ids: Iterator[int] = itertools.count()

    def generate(self, prompts: list[NDArray[np.int32]]) -> list[list[int]]:
        """Run the prompts together to their last token."""
        outputs: dict[int, list[int]] = {}
        for prompt in prompts:
            request = next(self._ids)
            assert self.scheduler.submit(request, prompt, NEW_TOKENS)
            outputs[request] = []
        sampling = dict.fromkeys(outputs, GREEDY)
        in_flight: deque[tuple[StepPlan, NDArray[np.int32]]] = deque()
        while True:
            while (plan := self.scheduler.plan()) is not None:
                in_flight.append((plan, self.runner.execute(plan, sampling)))
            copies = self.scheduler.copies()
            if copies is not None:
                assert self.host_pages is not None
                self.host_pages.copy(copies)
                self.scheduler.transfer_done(copies.ids)
            if not in_flight:
                if copies is not None:
                    continue
                return list(outputs.values())
            plan, tokens = in_flight.popleft()
            for request, token in zip(plan.request_ids[plan.outputs > 0].tolist(), tokens.tolist(), strict=True):
                outputs[request].append(token)
            self.scheduler.land(plan.step, tokens)

    def stats(self) -> Stats:
        return self.scheduler.stats()


def config(
    budget: int, overlap: int, prefix_cache: bool, num_blocks: int = 256, num_host_blocks: int = 0
) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_running=min(budget, 32),
        max_step_tokens=budget,
        overlap_depth=overlap,
        prefix_cache=prefix_cache,
        num_host_blocks=num_host_blocks,
    )


def check_drained(stats: Stats) -> None:
    assert stats.live_requests == 0
    assert stats.held_blocks == 0
    assert stats.free_blocks + stats.cached_blocks == stats.num_blocks


def test_each_prompt_alone(smollm2_model: Model, prompts: list[NDArray[np.int32]], expected: list[list[int]]) -> None:
    engine = Engine(smollm2_model, config(16, 1, prefix_cache=True))
    for prompt, tokens in zip(prompts, expected, strict=True):
        assert engine.generate([prompt]) == [tokens]
    # Of the five prompts that share an opening, four find its three blocks.
    assert engine.stats().prefix_hit_tokens == 4 * 4 * 3 * BLOCK_SIZE
    check_drained(engine.stats())


@pytest.mark.parametrize(
    ("budget", "overlap", "prefix_cache"),
    [(512, 0, False), (512, 1, True), (16, 0, False)] if FULL else [(512, 0, False)],
)
def test_prompts_alone_in_other_settings(
    smollm2_model: Model,
    prompts: list[NDArray[np.int32]],
    expected: list[list[int]],
    budget: int,
    overlap: int,
    prefix_cache: bool,
) -> None:
    engine = Engine(smollm2_model, config(budget, overlap, prefix_cache))
    every = 1 if FULL else 7
    for prompt, tokens in zip(prompts[::every], expected[::every], strict=True):
        assert engine.generate([prompt]) == [tokens]
    assert (engine.stats().prefix_hit_tokens > 0) == prefix_cache
    check_drained(engine.stats())


# Four of the eight combinations: every pair of values occurs.
@pytest.mark.parametrize(
    ("budget", "overlap", "prefix_cache"), [(16, 0, True), (16, 1, False), (512, 0, False), (512, 1, True)]
)
def test_all_prompts_together(
    smollm2_model: Model,
    prompts: list[NDArray[np.int32]],
    expected: list[list[int]],
    budget: int,
    overlap: int,
    prefix_cache: bool,
) -> None:
    engine = Engine(smollm2_model, config(budget, overlap, prefix_cache))
    assert engine.generate(prompts) == expected
    assert engine.stats().retractions == 0
    check_drained(engine.stats())


@pytest.mark.parametrize(
    ("budget", "overlap", "prefix_cache"), [(16, 0, False), (16, 1, True), (512, 0, True), (512, 1, False)]
)
def test_retraction_does_not_change_the_output(
    smollm2_model: Model,
    prompts: list[NDArray[np.int32]],
    expected: list[list[int]],
    budget: int,
    overlap: int,
    prefix_cache: bool,
) -> None:
    # A request begins with 4 blocks and ends with 8: of those that fit at first, about half can grow.
    engine = Engine(smollm2_model, config(budget, overlap, prefix_cache, num_blocks=48))
    assert engine.generate(prompts) == expected
    assert engine.stats().retractions > 0
    check_drained(engine.stats())


@pytest.mark.parametrize(("overlap", "num_host_blocks"), [(0, 24), (1, 256)])
def test_copies_to_the_host_and_back_do_not_change_the_output(
    smollm2_model: Model,
    prompts: list[NDArray[np.int32]],
    expected: list[list[int]],
    overlap: int,
    num_host_blocks: int,
) -> None:
    engine = Engine(smollm2_model, config(512, overlap, True, num_blocks=48, num_host_blocks=num_host_blocks))
    assert engine.generate(prompts) == expected
    assert engine.generate(prompts) == expected
    stats = engine.stats()
    assert stats.retractions > 0
    assert stats.spills > 0 and stats.fetches > 0 and stats.host_hit_tokens > 0
    assert stats.tails_matched > 0
    assert (stats.host_evictions > 0) == (num_host_blocks == 24)
    check_drained(stats)


def test_a_prompt_repeated_hits_the_prefix_cache(
    smollm2_model: Model, prompts: list[NDArray[np.int32]], expected: list[list[int]]
) -> None:
    engine = Engine(smollm2_model, config(512, 1, True))
    chosen = prompts[::7]
    assert engine.generate(chosen) == expected[::7]
    before = engine.stats().prefix_hit_tokens
    assert engine.generate(chosen) == expected[::7]
    # The last block is left out, because the last prompt token must be run to sample from it.
    assert engine.stats().prefix_hit_tokens - before >= len(chosen) * (PROMPT_TOKENS - BLOCK_SIZE)
