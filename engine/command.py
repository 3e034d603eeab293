"""The verb `serve`: loads a model, sizes its KV cache and serves it until a signal arrives."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..scheduler import SPEC_HASH
from .options import ServeOptions
from .server.wire.address import listen
from .server.wire.gate import read_keys

if TYPE_CHECKING:
    from .served_model import Replica


def run_serve(options: ServeOptions) -> int:
    """Serve a model until SIGTERM or SIGINT and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    console = Console(highlight=False)
    try:
        keys = read_keys(options.api_key_file) if options.api_key_file is not None else []
        listener = listen(options.host, options.port)
    except (OSError, ValueError) as error:  # of the address or of the file: the message says what to do
        return _fail(error)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    console.print(f"{address}: loading {options.model}", soft_wrap=True, markup=False)

    # Worker threads that spin while they wait take the cores from the control loop and from other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here because they import torch, which takes seconds and reads the variable above.
    import uvloop

    from .replica import load_replica
    from .server.lifecycle import serve

    serving = serve(
        listener,
        lambda: load_replica(options),
        max_waiting=options.max_waiting,
        shutdown_timeout=options.shutdown_timeout,
        api_keys=keys,
        on_ready=lambda replica: _greet(console, address, replica),
        step_timeout=options.step_timeout,
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
