"""The verb `serve`: loads a model, sizes its KV cache and serves it until a signal arrives."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..scheduler import SPEC_HASH
from .server.address import AddressUnavailable, listen

if TYPE_CHECKING:
    from .replica import Replica


def run_serve(
    *,
    model: str,
    load_format: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_running: int = 64,
    num_blocks: int | None = None,
    kv_memory: int = 2**30,
    host_kv_memory: int = 0,
    block_size: int = 16,
    max_step_tokens: int = 512,
    overlap_depth: int = 1,
    prefix_cache: bool = True,
    max_waiting: int = 1024,
    shutdown_timeout: float = 10.0,
    threads: int | None = None,
    record_trace: Path | None = None,
) -> int:
    """Serve `model` on `host`:`port` until SIGTERM or SIGINT and return the exit status.

    Args:
        model: a name or path that the loader knows.
        load_format: "auto" reads the weights, "dummy" makes random ones.
        host: address or name to listen on.
        port: TCP port; 0 lets the system choose.
        max_running: requests that may hold a slot at once.
        num_blocks: KV blocks in the pool; None takes as many as `kv_memory` bytes hold.
        kv_memory: bytes of the KV cache, if `num_blocks` is None.
        host_kv_memory: bytes of host memory for KV blocks that leave the device; 0 for none.
        block_size: tokens per KV block.
        max_step_tokens: token budget of one step.
        overlap_depth: a step may be planned while this many are in flight.
        prefix_cache: whether requests share the KV of equal beginnings.
        max_waiting: requests that may wait for a slot; more are answered with status 429.
        shutdown_timeout: seconds that running requests have after the first signal.
        threads: CPU threads of the model; None takes all that this process may use.
        record_trace: file that every transition of the scheduler is written to, if any.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    console = Console(highlight=False)
    try:
        listener = listen(host, port)
    except AddressUnavailable as error:
        return _fail(error)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    console.print(f"{address}: loading {model}", soft_wrap=True, markup=False)

    # Worker threads that spin while they wait take the cores from the control loop and from other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here because they import torch, which takes seconds and reads the variable above.
    import uvloop

    from .replica import load_replica
    from .server.lifecycle import serve

    def load() -> Replica:
        return load_replica(
            model,
            load_format=load_format,
            max_running=max_running,
            num_blocks=num_blocks,
            kv_memory=kv_memory,
            host_kv_memory=host_kv_memory,
            block_size=block_size,
            max_step_tokens=max_step_tokens,
            overlap_depth=overlap_depth,
            prefix_cache=prefix_cache,
            threads=threads or len(os.sched_getaffinity(0)),
            record_trace=record_trace,
        )

    serving = serve(
        listener,
        load,
        max_waiting=max_waiting,
        shutdown_timeout=shutdown_timeout,
        on_ready=lambda replica: _greet(console, address, replica),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            status = runner.run(serving)
        except (ValueError, OSError) as error:  # of the model or of a limit: the message says what to do
            status = _fail(error)
    if any(thread.name.startswith("tokenspeed-") for thread in threading.enumerate()):
        # A model that is still being loaded, or a step that hangs: the interpreter's orderly end would crash under it.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _greet(console: Console, address: str, replica: Replica) -> None:
    """Say what is served, with which limits, and how to try it."""
    model, limits = replica.model, replica.scheduler.config
    table = Table(show_header=False, box=None)
    table.add_row("model", model.name)
    table.add_row("context", f"{model.max_model_len:,} tokens")
    table.add_row("KV cache", f"{limits.num_blocks:,} blocks of {limits.block_size} tokens")
    if limits.num_host_blocks:
        table.add_row("host tier", f"{limits.num_host_blocks:,} blocks, {limits.host_copy_tokens_per_s:,.0f} tokens/s")
    table.add_row("prefix cache", "on" if limits.prefix_cache else "off")
    table.add_row("running", f"up to {limits.max_running} requests, {limits.max_step_tokens} tokens a step")
    table.add_row("overlap", f"{limits.overlap_depth} step{'s' if limits.overlap_depth != 1 else ''} ahead")
    table.add_row("specification", SPEC_HASH[:12])
    table.add_row("address", f"[bold]{address}[/]")
    console.print(table)
    body = f'{{"model": "{model.name}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    console.print("\nTry it:", style="bold")
    curl = f"curl {address}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    console.print(curl, soft_wrap=True, markup=False)


def _fail(error: Exception) -> int:
    """Tell the user why the server does not start, and return the exit status."""
    Console(stderr=True, highlight=False).print(f"error: {error}", soft_wrap=True, markup=False)
    return 1
