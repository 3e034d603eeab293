"""The life of a server process: listen, load the model, serve, drain on a signal, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Final, TypeVar

import uvicorn

from ..loop.async_engine import AsyncEngine
from ..served_model import Replica
from .app import create_app
from .service import Phase, Service
from .wire.connection import Connection

logger = logging.getLogger(__name__)

STEP_TIMEOUT_SECONDS: Final = 30.0
"""How long a shutdown waits for the step that is being executed."""
_LINGER_SECONDS = 3.0  # how long a shutdown waits for clients to read what was sent to them

Result = TypeVar("Result")


class _HTTPServer(uvicorn.Server):
    """uvicorn without signal handlers of its own, which end the process with the signal's status."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def drop_connections(self) -> None:
        """Close the connections of clients that do not read."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


async def serve(
    listener: socket.socket,
    load: Callable[[], Replica],
    *,
    max_waiting: int,
    shutdown_timeout: float,
    api_keys: Collection[str] = (),
    on_ready: Callable[[Replica], None],
    step_timeout: float | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after a signal, 1 if the engine failed.

    `load` runs on a thread of its own while the server already answers (with 503); its errors are raised from here.
    After the first signal no requests are taken, and running ones have `shutdown_timeout` seconds; a second signal ends
    them at once. `api_keys`: a request must bring one of them, if there are any. A step that takes `step_timeout`
    seconds has hung: the engine has failed.
    """
    events = asyncio.get_running_loop()
    service = Service()
    app = create_app(service, api_keys)
    server = _HTTPServer(
        uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=75,
        )
    )
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    def on_failure() -> None:
        service.phase = Phase.FAILED
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, on_signal)
    http = asyncio.create_task(server.serve(sockets=[listener]))
    loading = _on_daemon_thread(load)
    try:
        await _first(loading, stop.wait())
        if stop.is_set():
            return 0  # whoever called ends the process, and the loading thread with it
        replica = loading.result()
        engine = AsyncEngine(
            replica.scheduler,
            replica.runner,
            replica.model.tokenizer,
            service.metrics,
            max_waiting=max_waiting,
            on_failure=on_failure,
            copier=replica.host_pages,
            trace=replica.trace,
            step_timeout=step_timeout,
            drafter=replica.drafter,
        )
        service.start(engine, replica.model)
        on_ready(replica)
        await stop.wait()
        return await _stop_engine(service, engine, hurry, shutdown_timeout)
    finally:
        server.should_exit = True
        await asyncio.wait({http}, timeout=_LINGER_SECONDS)
        if not http.done():
            server.drop_connections()
        await http


async def _stop_engine(service: Service, engine: AsyncEngine, hurry: asyncio.Event, shutdown_timeout: float) -> int:
    failed = service.phase is Phase.FAILED
    if not failed:
        service.phase = Phase.DRAINING
        drained = asyncio.ensure_future(engine.drain(shutdown_timeout))
        logger.info("shutting down; running requests have %g s", shutdown_timeout)
        await _first(drained, hurry.wait())
        if engine.live_requests:
            logger.warning("%d requests are aborted", engine.live_requests)
    if not await asyncio.to_thread(engine.close, STEP_TIMEOUT_SECONDS):
        logger.error("the step in flight did not end within %g s", STEP_TIMEOUT_SECONDS)
        return 1
    return 1 if failed else 0


async def _first(future: asyncio.Future[Result], event: Awaitable[object]) -> None:
    """Wait until one of them is done; the future goes on if it is not."""
    waiting = asyncio.ensure_future(event)
    await asyncio.wait((future, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _on_daemon_thread(work: Callable[[], Result]) -> asyncio.Future[Result]:
    """The future result of `work` on a thread that does not keep the process alive."""
    events = asyncio.get_running_loop()
    future: asyncio.Future[Result] = events.create_future()

    def set_result(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        if not events.is_closed():
            events.call_soon_threadsafe(set_result, result, error)

    threading.Thread(target=run, name="tokenspeed-load", daemon=True).start()
    return future
