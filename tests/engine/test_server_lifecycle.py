"""A server process from its first to its last moment: listening, loading, draining, leaving with status 0."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tokenspeed.engine.server.wire.address import AddressUnavailable, listen

# A server process with the stand-in for the model. It loads when a line arrives on its standard input.
PROCESS = """
import asyncio, logging, sys
sys.path.insert(0, sys.argv[1])
import uvloop
from support import stand_ins
from tokenspeed.engine.text.chat_template import ChatTemplate
from tokenspeed.engine.server.wire.address import listen
from tokenspeed.engine.server.lifecycle import serve
from tokenspeed.engine.served_model import Replica, ServedModel
from tokenspeed.scheduler import Scheduler

logging.basicConfig(level=logging.INFO)

def load():
    word = sys.stdin.readline().strip()
    if word == "fail":
        raise ValueError("the model is not there")
    config = stand_ins.small_config()
    runner = stand_ins.PagedRunner(config)
    runner.step_seconds = float(sys.argv[2])
    model = ServedModel("fake", stand_ins.byte_tokenizer(), ChatTemplate(stand_ins.TEMPLATE), 1024)
    if word == "break":
        runner.before_step = lambda plan: setattr(SCHEDULER, "broken", True)
    return Replica(SCHEDULER, runner, model)

class Breakable:
    broken = False
    real = Scheduler(stand_ins.small_config())
    def __getattr__(self, name):
        if self.broken and name == "land":
            raise RuntimeError("invariant violated")
        return getattr(self.real, name)

SCHEDULER = Breakable()
listener = listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    status = runner.run(serve(listener, load, max_waiting=8, shutdown_timeout=float(sys.argv[3]),
                              on_ready=lambda replica: print("ready", flush=True)))
print("drained", SCHEDULER.real.stats().live_requests, SCHEDULER.real.stats().held_blocks, flush=True)
sys.exit(status)
"""


class Process:
    """The process, its address, and how it ended."""

    def __init__(self, step_seconds: float, shutdown_timeout: float) -> None:
        tests = Path(__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tests), str(step_seconds), str(shutdown_timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.output.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def load(self, word: str = "go") -> None:
        """Let the model load; with "fail" it cannot, with "break" the scheduler fails in the first step."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def ready(self) -> None:
        self.load()
        assert self.output.readline() == "ready\n"

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit status, rest of the output, log."""
        output, log = self.process.communicate(timeout=60)
        return self.process.returncode, output, log


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts processes, and ends what is left of them."""
    started: list[Process] = []

    def start(step_seconds: float = 0.0, shutdown_timeout: float = 10.0) -> Process:
        started.append(Process(step_seconds, shutdown_timeout))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.communicate()


@contextlib.contextmanager
def running_stream(process: Process, tokens: int) -> Iterator[Iterator[str]]:
    """A stream that has begun: the lines that are still to come."""
    body = {"prompt": "abc", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{process.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


def assert_clean_log(log: str, aborted: int = 0) -> None:
    """The log tells of the shutdown and of the aborted requests, if any, and of nothing else."""
    said = [line for line in log.splitlines() if "tokenspeed.access" not in line]
    expected = ["INFO:tokenspeed.engine.server.lifecycle:shutting down; running requests have "]
    if aborted:
        expected.append(f"WARNING:tokenspeed.engine.server.lifecycle:{aborted} requests are aborted")
    assert len(said) == len(expected) and all(map(str.startswith, said, expected)), log


def test_loading_serving_and_draining(start: Any) -> None:
    process = start(step_seconds=0.01)
    for method, path in (("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/completions")):
        response = httpx.request(method, process.url + path, json={"prompt": "abc"} if method == "POST" else None)
        assert response.status_code == 503
        assert "being loaded" in response.json()["error"]["message"]
    process.ready()
    assert httpx.get(f"{process.url}/health").status_code == 200
    with running_stream(process, tokens=100) as lines:
        process.signal()
        while (response := httpx.get(f"{process.url}/health")).status_code == 200:
            pass
        assert "shutting down" in response.json()["error"]["message"]
        refused = httpx.post(f"{process.url}/v1/completions", json={"prompt": "late"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert events[-1]["choices"][0]["finish_reason"] == "length"
    status, output, log = process.end()
    assert (status, output) == (0, "drained 0 0\n")
    assert_clean_log(log)


@pytest.mark.parametrize("hurry", [False, True])
def test_requests_that_outlast_the_grace_period_are_aborted(start: Any, hurry: bool) -> None:
    process = start(step_seconds=0.05, shutdown_timeout=600 if hurry else 0.2)
    process.ready()
    with running_stream(process, tokens=1000) as lines:
        process.signal()
        if hurry:
            while httpx.get(f"{process.url}/health").status_code == 200:
                pass
            process.signal(signal.SIGINT)  # a second signal ends the wait
        *_, error, done = [line for line in lines if line]
    assert done == "data: [DONE]"
    assert "shutting down" in json.loads(error[6:])["error"]["message"]
    status, output, log = process.end()
    assert (status, output) == (0, "drained 0 0\n")
    assert_clean_log(log, aborted=1)


def test_client_that_does_not_read_cannot_keep_the_process(start: Any) -> None:
    process = start()
    process.ready()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.connect(("127.0.0.1", process.port))
    body = json.dumps({"prompt": ["abc"] * 8, "max_tokens": 1000, "ignore_eos": True, "stream": True}).encode()
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert connection.recv(12) == b"HTTP/1.1 200"
    process.signal()
    status, output, _ = process.end()
    assert (status, output) == (0, "drained 0 0\n")
    connection.close()


def test_model_that_cannot_be_loaded_ends_the_process(start: Any) -> None:
    process = start()
    process.load("fail")
    status, _, log = process.end()
    assert status != 0 and "the model is not there" in log


def test_scheduler_that_fails_ends_the_process_with_status_1(start: Any) -> None:
    process = start()
    process.load("break")
    assert process.output.readline() == "ready\n"
    response = httpx.post(f"{process.url}/v1/completions", json={"prompt": "abc"}, timeout=30)
    assert response.status_code == 500
    status, _, log = process.end()
    assert status == 1 and "invariant violated" in log


def test_address_that_is_in_use_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressUnavailable, match=rf"port {port} .*in use.*--port"):
            listen("127.0.0.1", port)
    with pytest.raises(AddressUnavailable, match="cannot be resolved"):
        listen("no.such.host.invalid", 0)
    with listen("127.0.0.1", 0) as free:
        assert free.getsockname()[1] > 0


def test_sigterm_while_the_real_model_is_being_loaded() -> None:
    command = [sys.executable, "-m", "tokenspeed", "serve", "--model", "smollm2", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().partition(": loading")[0]
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code in (200, 503):
                break
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in log) == (0, False)


def test_command_explains_what_keeps_it_from_starting() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tokenspeed", "serve", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("--port", port)
        assert result.returncode == 1
        assert result.stderr.startswith("error: cannot listen on 127.0.0.1 port " + port)
    result = run("--port", "0", "--model", "/no/such/model.gguf")
    assert result.returncode == 1
    assert "error: model='/no/such/model.gguf' is not known" in result.stderr
    assert "Traceback" not in result.stderr
