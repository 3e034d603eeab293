"""One replica: a model with its KV cache and the scheduler that hands the cache out."""

from __future__ import annotations

import os
import time
from functools import partial

import numpy as np
import torch

from ..scheduler import CONTRACT_HASH, Scheduler, SchedulerConfig
from .checkpoints.loader import load_checkpoint
from .loop.trace_recorder import TraceRecorder
from .options import ServeOptions
from .run.decode_graphs import default_buckets
from .run.host_pages import HostPages
from .run.runner import ModelRunner
from .served_model import Replica, ServedModel


def load_replica(options: ServeOptions) -> Replica:
    """Load the model onto the first GPU (bfloat16) or the CPU (float32) and size its KV pool.

    Raises ValueError, with what to change, if the model or one of the limits cannot work, and OSError if the file
    `record_trace` cannot be made.
    """
    block_size, num_blocks, kv_memory = options.block_size, options.num_blocks, options.kv_memory
    checkpoint = load_checkpoint(options.model, options.load_format)
    config = checkpoint.config
    on_gpu = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, "cuda") if on_gpu else (torch.float32, "cpu")
    block_bytes = checkpoint.architecture.cache_layout(config, dtype).bytes_per_block(block_size)
    if num_blocks is None:
        num_blocks = kv_memory // block_bytes
        if num_blocks < 1:
            raise ValueError(f"kv_memory={kv_memory} bytes is less than one KV block; give at least {block_bytes}")
    host_blocks = options.host_kv_memory // block_bytes
    limits = partial(
        SchedulerConfig,
        num_blocks=num_blocks,
        block_size=block_size,
        max_running=options.max_running,
        max_step_tokens=options.max_step_tokens,
        overlap_depth=options.overlap_depth,
        prefix_cache=options.prefix_cache,
        record_trace=options.record_trace is not None,
    )
    runner = ModelRunner(
        checkpoint.build(dtype, device),
        num_blocks=num_blocks,
        block_size=block_size,
        max_running=options.max_running,
        max_step_tokens=options.max_step_tokens,
        decode_buckets=default_buckets(options.max_running) if on_gpu else (),
        num_threads=options.threads or len(os.sched_getaffinity(0)),
    )
    runner.capture()
    host_pages, copy_rate, prefill_rate = None, 1.0, 1.0
    if host_blocks:
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
    return Replica(scheduler, runner, served, host_pages, trace)


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
