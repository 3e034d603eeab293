"""What one rank does: build its part of a model, compare or time it."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

if "tokenspeed" not in sys.modules:  # from the source tree: nothing is compiled for what is measured here
    package = ModuleType("tokenspeed")
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["tokenspeed"] = package

from tokenspeed.engine.models.decoder import Decoder
from tokenspeed.engine.models.layers.module import Step
from tokenspeed.engine.models.model import RowLengths, StepInputs
from tokenspeed.engine.models.registry import read
from tokenspeed.engine.models.weights import DummyWeights
from tokenspeed.engine.run.kv_cache import KVCache
from tokenspeed.engine.spmd.agreement import agreed
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism
from tokenspeed.engine.spmd.plan import StepRows
from tokenspeed.engine.spmd.runtime.collectives import DistributedCommunicator
from tokenspeed.engine.spmd.runtime.place import Place

BLOCK = 64
ROUNDS = 7
REPLAYS = 20
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072, "tie_word_embeddings": False, "hidden_act": "silu", "attention_bias": False,
}  # fmt: skip
V2_LITE: dict[str, Any] = LATENT | {
    "architectures": ["DeepseekV2ForCausalLM"], "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
    "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16,
    "q_lora_rank": None, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "rope_theta": 10000.0,
}  # fmt: skip
KIMI: dict[str, Any] = LATENT | {
    "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 163840, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64,
    "q_lora_rank": 1536, "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.827,
    "rope_theta": 50000.0, "num_nextn_predict_layers": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement. `layers`: how many of the model's are kept; None: all."""

    name: str
    kind: str
    shape: Mapping[str, Any]
    parallelism: Parallelism
    layers: int | None = None
    batches: Sequence[int] = (1, 32, 128)
    context: int = 1024

    @property
    def world(self) -> int:
        """Ranks."""
        return self.parallelism.world

    @property
    def config(self) -> dict[str, Any]:
        """The config.json with as many layers as are kept."""
        return dict(self.shape) | ({} if self.layers is None else {"num_hidden_layers": self.layers})


def jobs() -> Iterator[Job]:
    """All measurements, the comparisons first."""
    one, tp2 = Parallelism(), Parallelism(tp=2)
    apart = Parallelism(tp=1, dp=2, ep=2)
    for name, shape, layers in (("llama-3-8b", LLAMA, 4), ("deepseek-v2-lite", V2_LITE, 3)):
        yield Job(f"{name}, {layers} layers, float32, TP2 against one", "compare", shape, tp2, layers)
    yield Job("deepseek-v2-lite, 3 layers, float32, DP2 + EP2 against one", "compare", V2_LITE, apart, 3)
    for name, shape in (("llama-3-8b", LLAMA), ("deepseek-v2-lite", V2_LITE)):
        yield Job(f"{name}, one GPU", "time", shape, one)
        yield Job(f"{name}, TP2", "time", shape, tp2)
    yield Job("deepseek-v2-lite, TP2 + EP2", "time", V2_LITE, Parallelism(tp=2, ep=2))
    yield Job("deepseek-v2-lite, DP2 + EP2", "time", V2_LITE, apart)
    for layers in (1, 2, 3):
        yield Job(f"kimi-k2, {layers} layers, one GPU", "time", KIMI, one, layers, (1, 32))
        yield Job(f"kimi-k2, {layers} layers, TP2", "time", KIMI, tp2, layers, (1, 32))
        yield Job(f"kimi-k2, {layers} layers, TP2 + EP2", "time", KIMI, Parallelism(tp=2, ep=2), layers, (1, 32))


class WholeWeights(DummyWeights):
    """The same whole tensor on every rank of every world, of which each takes its slice."""

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        """See `Weights`."""
        generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
        whole = torch.empty(shape, dtype=torch.float32, device=device)
        whole = whole.normal_(1.0 if len(shape) == 1 else 0.0, 0.02, generator=generator)
        part = whole if ranges is None else whole[tuple(slice(r.start, r.stop) for r in ranges)]
        return part.to(dtype).contiguous()


def rank_main(rank: int, job: Job, port: int, answers: Any) -> None:
    """The process of one rank."""
    torch.cuda.set_device(rank)
    os.environ["MASTER_PORT"] = str(port)
    os.environ["NCCL_NVLS_ENABLE"] = "0"
    device = torch.device("cuda", rank)
    dist.init_process_group("nccl", rank=rank, world_size=job.world, device_id=device, timeout=timedelta(seconds=120))
    try:
        found = compare(rank, job, device) if job.kind == "compare" else timed(rank, job, device)
        if rank == 0:
            answers.put(found)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def build(job: Job, rank: int, device: torch.device, dtype: torch.dtype, weights: DummyWeights) -> Decoder:
    """This rank's part of the model."""
    architecture, config = read(job.config)
    place = Place(Mesh.of(job.parallelism), rank, None if job.world == 1 else DistributedCommunicator)
    model = architecture.build(config, weights, dtype, device, place)
    assert isinstance(model, Decoder)
    return model


def groups_of(job: Job) -> tuple[tuple[int, ...], ...]:
    """The ranks of each attention group."""
    return Mesh.of(job.parallelism).groups(("tp",)).parts


def compare(rank: int, job: Job, device: torch.device) -> dict[str, object]:
    """Logits of all tokens of prompts, on the ranks and on one, in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    groups = groups_of(job)
    own = next(i for i, group in enumerate(groups) if rank in group)
    prompts = [
        torch.randint(0, 1000, (n,), generator=torch.Generator().manual_seed(n)).to(device)
        for n in (192, 77)[: len(groups)]
    ]
    count = len(prompts[own])
    model = build(job, rank, device, torch.float32, WholeWeights())
    rows = None
    if job.world > 1:
        tokens = tuple(len(p) for p in prompts)
        sampled = tuple(tuple(range(n)) for n in tokens)
        rows = StepRows.of(model.stack.plan.attention, agreed("tokens", [tokens]), agreed("sampled", [sampled]))
    with torch.inference_mode():
        step = Step(prefill_inputs(count, device), KVCache(model.cache_layout, 4, BLOCK, device))
        hidden = model.stack.forward(prompts, step, rows)
        selected = hidden if rows is None else model.stack.select(hidden, rows)
        found = model.stack.logits(selected, None, rows)[:count]
    del model
    architecture, config = read(job.config)
    alone = architecture.build(config, WholeWeights(), torch.float32, device)
    assert isinstance(alone, Decoder)
    with torch.inference_mode():
        cache = KVCache(alone.cache_layout, 4, BLOCK, device)
        expected = alone.logits(alone.forward(prompts[own], prefill_inputs(count, device), cache))
    error = ((found - expected).norm() / expected.norm()).item()
    same = int((found.argmax(-1) == expected.argmax(-1)).sum())
    every: list[Any] = [None] * job.world
    dist.all_gather_object(every, {"rel_l2": error, "greedy_tokens_equal": same, "of": count})
    return {"ranks": every}


def prefill_inputs(count: int, device: torch.device) -> StepInputs:
    """One prompt from the start, in the first blocks."""
    places = torch.arange(count, device=device)
    lengths = np.array([count], dtype=np.int32)
    return StepInputs(
        positions=places,
        slot_mapping=places,
        block_table=torch.arange(4, dtype=torch.int32, device=device).view(1, 4),
        context_lens=torch.tensor([count], dtype=torch.int32, device=device),
        query_start=torch.tensor([0, count], dtype=torch.int32, device=device),
        lengths=RowLengths(lengths, lengths),
    )


def timed(rank: int, job: Job, device: torch.device) -> dict[str, object]:
    """Decode steps of each batch, replayed."""
    model = build(job, rank, device, torch.bfloat16, DummyWeights(rank))
    groups = groups_of(job)
    found: dict[str, object] = {}
    for batch in job.batches:
        if batch < len(groups):
            continue
        mine = batch // len(groups)
        columns = -(-(job.context + 1) // BLOCK)
        cache = KVCache(model.cache_layout, mine * columns, BLOCK, device)
        ids = [torch.ones(mine, dtype=torch.int64, device=device) for _ in groups]
        lens = torch.full((mine,), job.context, dtype=torch.int32, device=device)
        table = torch.arange(mine * columns, dtype=torch.int32, device=device).view(mine, columns)
        plan = model.plan_decode(lens, row_tokens=1, block_size=BLOCK, max_context=columns * BLOCK)
        if plan is not None:
            plan.fill(lens)
        last = job.context - 1
        inputs = StepInputs(
            positions=torch.full((mine,), last, device=device),
            slot_mapping=table[:, last // BLOCK].long() * BLOCK + last % BLOCK,
            block_table=table,
            context_lens=lens,
            query_start=torch.arange(mine + 1, dtype=torch.int32, device=device),
            row_tokens=1,
            decode_plan=plan,
        )
        rows = None
        if job.world > 1:
            tokens = (mine,) * len(groups)
            sampled = (tuple(range(mine)),) * len(groups)
            rows = StepRows.of(model.stack.plan.attention, agreed("tokens", [tokens]), agreed("sampled", [sampled]))
        step_ms, share = replayed(model, ids, inputs, cache, rows)
        every: list[Any] = [None] * job.world
        dist.all_gather_object(every, (step_ms, share))
        found[f"batch {batch}"] = {
            "step_ms": max(ms for ms, _ in every),
            "collective_share": round(statistics.mean(s for _, s in every), 4),
        }
        del cache
    return found


def replayed(
    model: Decoder, ids: list[torch.Tensor], inputs: StepInputs, cache: KVCache, rows: StepRows | None
) -> tuple[float, float]:
    """Milliseconds of a step, median of rounds, and the share of its kernels' time that is in collectives."""

    def step() -> torch.Tensor:
        inputs.derived.clear()
        hidden = model.stack.forward(ids, Step(inputs, cache), rows)
        return model.stack.logits(hidden, None, rows)  # every row is sampled: all are selected

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # inputs are still being filled there
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            step()
        stream.synchronize()
        dist.barrier()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
        times = []
        for _ in range(ROUNDS):
            dist.barrier()
            torch.cuda.synchronize()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            for _ in range(REPLAYS):
                graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) / REPLAYS)
        with contextlib.suppress(RuntimeError), profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(5):
                graph.replay()
            stream.synchronize()
    kernels = [(event.name, event.device_time_total) for event in seen.events() if event.device_time_total]
    total = sum(us for _, us in kernels)
    collective = sum(us for name, us in kernels if "nccl" in name.lower())
    return statistics.median(times), collective / total if total else 0.0
