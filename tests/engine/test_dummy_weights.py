"""Random weights in place of a checkpoint: any config.json runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenspeed.engine.checkpoints.checkpoint import CheckpointError
from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.models.weights import DummyWeights
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.text.sampling_params import GREEDY
from tokenspeed.scheduler import Scheduler, SchedulerConfig

pytestmark = pytest.mark.serve

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def test_a_directory_with_a_config_alone_generates_tokens(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    checkpoint = load_checkpoint(str(tmp_path), "dummy")
    model = checkpoint.build(torch.bfloat16, "cpu")
    scheduler = Scheduler(SchedulerConfig(num_blocks=8, block_size=16, max_running=2, max_step_tokens=32))
    runner = ModelRunner(model, num_blocks=8, block_size=16, max_running=2)
    prompt = checkpoint.tokenizer.encode("héllo")
    assert scheduler.submit(0, prompt, 5)
    tokens: list[int] = []
    while (plan := scheduler.plan()) is not None:
        sampled = runner.execute(plan, {0: GREEDY})
        tokens += sampled.tolist()
        scheduler.land(plan.step, sampled)
    assert len(tokens) == 5
    assert all(0 <= token < 300 for token in tokens)


def test_the_placeholder_tokenizer_writes_bytes_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    tokenizer = load_checkpoint(str(tmp_path), "dummy").tokenizer
    assert tokenizer.vocab_size == 300
    text = "naïve\n\x00 日本"
    assert tokenizer.encode(text).tolist() == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(np.array([65, 299], dtype=np.int32)) == "A<299>"
    assert not tokenizer.eos_token_ids


def test_dummy_weights_need_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load_format='dummy' needs a directory"):
        load_checkpoint("smollm2", "dummy")
    with pytest.raises(CheckpointError, match="load_format='random' is not known: give one of auto, dummy"):
        load_checkpoint(str(tmp_path), "random")
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        load_checkpoint(str(tmp_path), "dummy")


def test_ranks_hold_parts_of_one_random_model() -> None:
    def part(name: str, ranges: tuple[range, ...] | None) -> torch.Tensor:
        return DummyWeights().read(name, (6, 8), ranges, dtype=torch.bfloat16, device=torch.device("cpu"))

    whole = part("a.weight", None)
    assert torch.equal(part("a.weight", (range(2, 5), range(3, 8))), whole[2:5, 3:8])
    assert torch.equal(part("a.weight", None), whole)
    assert not torch.equal(part("b.weight", None), whole)
    assert 0.01 < float(whole.float().std()) < 0.03
