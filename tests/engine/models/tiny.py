"""Tiny random checkpoints of every architecture, saved by transformers itself, and an engine that runs them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray

from tokenspeed.engine.models.model import Model, RowLengths, StepInputs
from tokenspeed.engine.run.exchange import LaunchedStep
from tokenspeed.engine.run.host_pages import HostPages
from tokenspeed.engine.run.kv_cache import KVCache
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.text.sampling_params import GREEDY
from tokenspeed.scheduler import Scheduler, SchedulerConfig, StepPlan

hf: Any = transformers  # typed in part only

VOCABULARY = 96

_GROUPED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 64,
}
_EXPERTS = {"moe_intermediate_size": 16, "n_shared_experts": 1, "n_routed_experts": 8, "num_experts_per_tok": 2}
_LATENT = {
    **_GROUPED,
    **_EXPERTS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "q_lora_rank": 16,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "llama-tied-rope3": (
        "llama",
        {
            **_GROUPED,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen2": ("qwen2", {key: value for key, value in _GROUPED.items() if key != "head_dim"}),
    "qwen3": ("qwen3", {**_GROUPED, "head_dim": 24}),
    "qwen3-moe": (
        "qwen3_moe",
        {
            **_GROUPED,
            "num_hidden_layers": 3,
            "moe_intermediate_size": 16,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "deepseek-v2-lite": (
        "deepseek_v2",
        {
            **_LATENT,
            "q_lora_rank": None,
            "topk_method": "greedy",
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    "deepseek-v2": (
        "deepseek_v2",
        {**_LATENT, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 4.0},
    ),
    "deepseek-v3": (
        "deepseek_v3",
        {
            **_LATENT,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
            "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    "kimi-k2": (
        "deepseek_v3",
        {
            **_LATENT,
            "n_group": 1,
            "topk_group": 1,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 1},
        },
    ),
    "glm-4.7-flash": (
        "glm4_moe_lite",
        {**_LATENT, "n_group": 1, "topk_group": 1, "qk_nope_head_dim": 192, "v_head_dim": 256, "rms_norm_eps": 1e-5},
    ),
    "glm-4.5": (
        "glm4_moe",
        {
            **_GROUPED,
            **_EXPERTS,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "use_qk_norm": True,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        },
    ),
}
"""By name the `model_type` and the fields of its configuration."""


def save(directory: Path, name: str, **changes: Any) -> Any:
    """Write a random model of a family and a tokenizer, as transformers does, and return the model."""
    kind, settings = FAMILIES[name]
    torch.manual_seed(0)
    config = hf.AutoConfig.for_model(kind, **{**settings, "initializer_range": 0.15, "eos_token_id": None, **changes})
    model = hf.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():  # norms of one and biases of zero would hide that they are not read
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.3 - 0.2)
            elif buffer.dtype == torch.float32 and key.endswith("bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.3)
    model.save_pretrained(directory)
    vocab = {chr(33 + i): i for i in range(VOCABULARY)}
    tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[])).save(str(directory / "tokenizer.json"))
    return model


@dataclass(frozen=True)
class Pair:
    """A checkpoint, what transformers makes of it, and what we do."""

    name: str
    directory: Path
    theirs: Any
    ours: Model


def logits(model: Model, ids: torch.Tensor, chunks: list[int] | None = None, block_size: int = 64) -> torch.Tensor:
    """[n, vocabulary] for one sequence, in one piece or in chunks of so many tokens."""
    blocks = -(-len(ids) // block_size) + 1
    cache = KVCache(model.cache_layout, blocks, block_size, model.device)
    table = torch.randperm(blocks, generator=torch.Generator().manual_seed(5)).int()[None]
    results, start = [], 0
    for count in chunks or [len(ids)]:
        positions = torch.arange(start, start + count)
        step = StepInputs(
            positions=positions,
            slot_mapping=table[0, positions // block_size].long() * block_size + positions % block_size,
            block_table=table,
            context_lens=torch.tensor([start + count], dtype=torch.int32),
            query_start=torch.tensor([0, count], dtype=torch.int32),
            lengths=RowLengths(np.array([count], dtype=np.int32), np.array([start + count], dtype=np.int32)),
        )
        results.append(model.logits(model.forward(ids[start : start + count], step, cache)))
        start += count
    return torch.cat(results)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The relative L2 norm of the difference."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def reference(model: Any, prompts: list[NDArray[np.int32]], new_tokens: int) -> list[list[int]]:
    """What transformers generates for each prompt, greedily and alone."""
    settings = hf.GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0)
    outputs = []
    for prompt in prompts:
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


class Engine:
    """A scheduler and a runner of the same sizes."""

    def __init__(self, model: Model, config: SchedulerConfig, buckets: tuple[int, ...] = ()) -> None:
        self.scheduler = Scheduler(config)
        self.runner = ModelRunner(
            model,
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            max_running=config.max_running,
            max_step_tokens=config.max_step_tokens,
            decode_buckets=buckets,
            draft_tokens=config.max_draft_tokens,
        )
        # Nothing may depend on what is left in blocks that nobody has.
        for pool in self.runner.cache.pools:
            pool.fill_(torch.nan)
        self.host_pages = HostPages(self.runner.cache, config.num_host_blocks) if config.num_host_blocks else None
        self._ids: Iterator[int] = itertools.count()

    def generate(
        self,
        prompts: list[NDArray[np.int32]],
        new_tokens: int,
        drafts: Callable[[int, int], list[int]] | None = None,
    ) -> list[list[int]]:
        """Run the prompts together to their last token. `drafts`: those of a prompt, by its number and its tokens."""
        outputs: dict[int, list[int]] = {}
        for prompt in prompts:
            request = next(self._ids)
            assert self.scheduler.submit(request, prompt, new_tokens)
            outputs[request] = []
        sampling = dict.fromkeys(outputs, GREEDY)
        in_flight: deque[tuple[StepPlan, LaunchedStep]] = deque()
        while True:
            while (plan := self.scheduler.plan()) is not None:
                in_flight.append((plan, self.runner.launch(plan, sampling)))
            copies = self.scheduler.copies()
            if copies is not None:
                assert self.host_pages is not None
                self.host_pages.copy(copies)
                self.scheduler.transfer_done(copies.ids)
            if not in_flight:
                if copies is not None:
                    continue
                return list(outputs.values())
            plan, launched = in_flight.popleft()
            result = launched.wait()
            assert result.healthy.all()
            rows = plan.request_ids[plan.outputs > 0].tolist()
            for request, own in zip(rows, np.split(result.tokens, np.cumsum(result.counts))[:-1], strict=True):
                outputs[request] += own.tolist()
            self.scheduler.land(plan.step, result.tokens, result.counts)
            for request in rows:
                if drafts is not None and len(outputs[request]) < new_tokens:
                    number = list(outputs).index(request)
                    self.scheduler.offer_drafts(request, drafts(number, len(outputs[request])))
