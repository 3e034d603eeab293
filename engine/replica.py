"""One replica: a model with its KV cache and the scheduler that hands the cache out."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from ..scheduler import CONTRACT_HASH, Scheduler, SchedulerConfig
from .checkpoints.loader import load_checkpoint
from .loop.trace_recorder import TraceRecorder
from .models.model import Model
from .options import ServeOptions
from .ranks.group import RankedRunner, ranked_runner, start_ranks
from .ranks.worker import RankOptions, RunnerLimits
from .run.decode_graphs import default_buckets
from .run.drafts import SuffixDrafter
from .run.host_pages import HostPages
from .run.memory import explained, memory_for_blocks
from .run.runner import ModelRunner
from .served_model import Replica, ServedModel
from .spmd.mesh import Parallelism

logger = logging.getLogger(__name__)

CPU_KV_MEMORY: Final = 2**30
"""Bytes of the KV cache on a CPU, if nothing else is asked for."""


def load_replica(options: ServeOptions) -> Replica:
    """Load the model onto the first GPU (bfloat16) or the CPU (float32) and size its KV pool.

    Raises ValueError, with what to change, if the model or one of the limits cannot work, and OSError if the file
    `record_trace` cannot be made.
    """
    checkpoint = load_checkpoint(options.model, options.load_format)
    config = checkpoint.config
    on_gpu = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, "cuda") if on_gpu else (torch.float32, "cpu")
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    begin = time.perf_counter()
    group = None
    with explained("the weights", "take a smaller model, or more ranks: --tp"):
        if options.tp == 1 and options.ep == 1:
            model = checkpoint.build(dtype, device)
        else:
            group, model = start_ranks(rank_options(options, torch.cuda.device_count() if on_gpu else None))
    where = f"{torch.cuda.memory_allocated() / 2**30:.1f} GiB on the GPU" if on_gpu else "on the CPU"
    logger.info("weights: %s, read in %.1f s", where, time.perf_counter() - begin)
    block_size = options.block_size or model.cache_layout.block_size
    buckets = default_buckets(options.max_running) if on_gpu else ()
    num_blocks = _num_blocks(options, model, block_size, buckets)
    block_bytes = model.cache_layout.bytes_per_block(block_size)
    draft_tokens = 0 if options.drafts == "none" else options.draft_tokens
    host_blocks = options.host_kv_memory // block_bytes
    limits = partial(
        SchedulerConfig,
        num_blocks=num_blocks,
        block_size=block_size,
        max_running=options.max_running,
        max_step_tokens=options.max_step_tokens,
        overlap_depth=options.overlap_depth,
        prefix_cache=options.prefix_cache,
        max_draft_tokens=draft_tokens,
        record_trace=options.record_trace is not None,
    )
    advice = f"lower --kv-memory (the cache takes {num_blocks * block_bytes / 2**30:.1f} GiB) or --max-running"
    with explained("the KV cache and the decode graphs", advice):
        runner: ModelRunner | RankedRunner
        if group is not None:
            sizes = (num_blocks, block_size, options.max_running, options.max_step_tokens)
            runner = ranked_runner(group, model, RunnerLimits(*sizes, buckets, options.overlap_depth))
        else:
            runner = ModelRunner(
                model,
                num_blocks=num_blocks,
                block_size=block_size,
                max_running=options.max_running,
                max_step_tokens=options.max_step_tokens,
                decode_buckets=buckets,
                draft_tokens=draft_tokens,
            )
            runner.capture(_log_capture)
    host_pages, copy_rate, prefill_rate = None, 1.0, 1.0
    if host_blocks and isinstance(runner, ModelRunner):
        host_pages = HostPages(runner.cache, host_blocks)
        copy_rate, prefill_rate = host_pages.tokens_per_s(), prefill_tokens_per_s(runner, limits())
    names = [name.strip() for name in (options.served_model_name or checkpoint.name).split(",") if name.strip()]
    if not names:
        raise ValueError(f"served_model_name={options.served_model_name!r} has no name; give at least one")
    served = ServedModel(
        name=names[0],
        aliases=tuple(names[1:]),
        tokenizer=checkpoint.tokenizer,
        chat_template=checkpoint.chat_template,
        max_model_len=min(config.max_position_embeddings, num_blocks * block_size),
    )
    scheduler = Scheduler(
        limits(num_host_blocks=host_blocks, host_copy_tokens_per_s=copy_rate, prefill_tokens_per_s=prefill_rate),
        CONTRACT_HASH,
    )
    trace = None if options.record_trace is None else TraceRecorder(options.record_trace, scheduler)
    return Replica(scheduler, runner, served, host_pages, trace, SuffixDrafter() if draft_tokens else None)


def rank_options(options: ServeOptions, gpus: int | None) -> RankOptions:
    """How the ranks of `options` are started. `gpus`: how many there are; None is the CPU.

    Raises ValueError naming the option that does not go with several ranks.
    """
    if gpus is not None and options.tp > gpus:
        raise ValueError(f"tp={options.tp} ranks need as many GPUs, but there are {gpus}; use --tp {gpus} at most")
    if options.host_kv_memory:
        raise ValueError(f"host_kv_memory={options.host_kv_memory} goes with one rank; leave it out, or use --tp 1")
    if options.drafts != "none":
        raise ValueError(f"drafts={options.drafts} goes with one rank; leave it out, or use --tp 1")
    if gpus is not None and options.num_blocks is None and options.kv_memory is None:
        raise ValueError(f"kv_memory is not given, and is not measured for tp={options.tp} ranks; give --kv-memory")
    parallelism = Parallelism(options.tp, ep=options.ep)
    parallelism.sizes()
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.tp)
    store = Path(tempfile.mkdtemp(prefix="tokenspeed-")) / "store"
    return RankOptions(options.model, parallelism, store, options.load_format, threads, options.step_timeout)


def _num_blocks(options: ServeOptions, model: Model, block_size: int, buckets: Sequence[int]) -> int:
    """KV blocks of the pool: as many as are asked for, or as fit into the memory."""
    if options.num_blocks is not None:
        return options.num_blocks
    block_bytes = model.cache_layout.bytes_per_block(block_size)
    memory = options.kv_memory
    if memory is None and model.device.type == "cuda":
        memory = memory_for_blocks(
            model,
            block_size=block_size,
            max_running=options.max_running,
            max_step_tokens=options.max_step_tokens,
            decode_buckets=buckets,
        )
        logger.info("KV cache: the GPU has %.1f GiB beside weights, steps and graphs", memory / 2**30)
    memory = CPU_KV_MEMORY if memory is None else memory
    if memory < block_bytes:
        raise ValueError(f"kv_memory={memory} bytes is less than one KV block; give at least {block_bytes}")
    return memory // block_bytes


def _log_capture(done: int, count: int, seconds: float) -> None:
    if done == count or done % 5 == 1:
        logger.info("decode steps: %d of %d sizes recorded in %.1f s", done, count, seconds)


def prefill_tokens_per_s(runner: ModelRunner, limits: SchedulerConfig) -> float:
    """Prompt tokens that the model computes each second, measured on one prompt before anything else runs.

    The first prompt is not timed: it compiles kernels, packs weights and takes memory from the system.
    """
    most = min(limits.max_step_tokens, limits.num_blocks * limits.block_size, runner.model.max_positions)
    rate = 0.0
    for _ in range(2):
        scheduler = Scheduler(limits)
        scheduler.submit(0, np.zeros(max(most - 1, 1), dtype=np.int32), 1)
        plan = scheduler.plan()
        assert plan is not None
        start = time.perf_counter()
        runner.execute(plan, {})
        rate = float(plan.tokens / (time.perf_counter() - start))
    return rate
