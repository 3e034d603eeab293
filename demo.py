"""`make demo`: verify the specification, simulate a workload and serve a small model, once each.

It runs the commands that a user would type and talks to the server over HTTP as any client would.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

OUT = Path("out/demo")
MODEL = "smollm2"
QUESTION = "In two sentences: why does reusing a cached prompt prefix make a chat server faster?"
FOLLOW_UP = "And what must the server never do with a cached block while the GPU still reads it?"
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30
TRANSITION = re.compile(r'transition="(\w+)"')

console = Console(highlight=False)


def main() -> None:
    """Run the three parts; exit with status 1 and a reason at the first that fails."""
    OUT.mkdir(parents=True, exist_ok=True)
    run_verb("1/3  Verify: prove the scheduler's specification", "verify")
    run_verb(
        "2/3  Simulate: coding agents on simulated GPUs",
        *("simulate", "--workload", "swe-agent", "--out", str(OUT / "simulate")),
    )
    for report in sorted((OUT / "simulate").glob("*.html")):
        console.print(f"\nOpen the report in a browser: {report.resolve().as_uri()}", soft_wrap=True)
    console.rule("[bold]3/3  Serve: two chat turns with SmolLM2-135M-Instruct")
    port = free_port()
    with server(port) as process:
        wait_until_healthy(process, port)
        answer = stream_chat(port, [{"role": "user", "content": QUESTION}])
        stream_chat(port, [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": FOLLOW_UP},
        ])  # fmt: skip
        wait_until_idle(port)
        console.print(metrics_table(port))
    console.print("\nThe server has stopped cleanly. Next: `.venv/bin/tokenspeed --help`")


def run_verb(title: str, *arguments: str) -> None:
    """Show the title, run `tokenspeed` with the arguments on this terminal, and stop the demo if it fails."""
    console.rule(f"[bold]{title}")
    console.print(f"$ tokenspeed {' '.join(arguments)}", style="dim", soft_wrap=True)
    status = subprocess.call(tokenspeed(*arguments))
    if status != 0:
        sys.exit(f"error: `tokenspeed {' '.join(arguments)}` ended with exit status {status}")


def tokenspeed(*arguments: str) -> list[str]:
    """Command line of a verb, in the environment that runs this script."""
    return [sys.executable, "-m", "tokenspeed", *arguments]


def free_port() -> int:
    """A TCP port on this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server, which logs into OUT/server.log; at the end stop it with SIGTERM: its exit status must be 0."""
    arguments = ("serve", "--model", MODEL, "--port", str(port))
    console.print(f"$ tokenspeed {' '.join(arguments)}", style="dim", soft_wrap=True)
    with (OUT / "server.log").open("wb") as log:
        process = subprocess.Popen(tokenspeed(*arguments), stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            status = process.wait(STOP_TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if status != 0:
        fail(f"the server ended with exit status {status} after SIGTERM")


def wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when GET /health answers 200; stop the demo if the server ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with console.status("loading the model"):
        while time.monotonic() < deadline:
            if process.poll() is not None:
                fail(f"the server ended with exit status {process.returncode}")
            try:
                open_url(port, "/health").close()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)  # not listening yet, or still loading
    fail(f"the server did not become healthy within {START_TIMEOUT_S} s")


def stream_chat(port: int, messages: list[dict[str, str]]) -> str:
    """Send a chat turn, print the answer while it arrives, and return it."""
    console.print(f"\n[bold]user[/]       {messages[-1]['content']}")
    console.print("[bold]assistant[/]  ", end="")
    request = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 96,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    response = open_url(port, "/v1/chat/completions", request)
    usage: dict[str, Any] = {}
    answer = ""
    for chunk in server_sent_events(response):
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            text = choice["delta"].get("content") or ""
            answer += text
            console.print(text, end="", markup=False, soft_wrap=True)
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens")
    console.print(
        f"\n\n{usage.get('prompt_tokens')} prompt tokens, {cached} of them from the prefix cache; "
        f"{usage.get('completion_tokens')} completion tokens"
    )
    if not answer:
        fail("the answer was empty")
    return answer


def open_url(port: int, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
    """GET the path, or POST the body as JSON; raises urllib.error.HTTPError unless the status is 2xx."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not reach this machine
    response = direct.open(request, timeout=120)
    assert isinstance(response, HTTPResponse)
    return response


def server_sent_events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """JSON objects of a stream of server-sent events, up to its [DONE]."""
    for line in response:
        data = line.decode().strip().removeprefix("data:").strip()
        if data == "[DONE]":
            return
        if data:
            yield json.loads(data)
    fail("the stream ended without [DONE]")


def metrics_table(port: int) -> Table:
    """The scheduler's own numbers, from the server's /metrics (Prometheus text format); what is zero is left out."""
    table = Table("Metric", "Value", title="The scheduler's own numbers", title_justify="left")
    transitions = []
    for name, value in metrics(port).items():
        label = TRANSITION.search(name)
        if value == 0 or not name.startswith("tokenspeed_") or "_bucket{" in name or "_created" in name:
            continue
        if label is not None:
            transitions.append(f"{label[1]} {value:.0f}")
        else:
            table.add_row(name.removeprefix("tokenspeed_"), f"{value:.4g}" if value % 1 else f"{value:.0f}")
    table.add_row("transitions of the specification", ", ".join(transitions))
    return table


def metrics(port: int) -> dict[str, float]:
    """Name with labels -> value."""
    lines = open_url(port, "/metrics").read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def wait_until_idle(port: int) -> None:
    """With overlap one more step is in flight when the last token arrives; its blocks come back when it has landed."""
    deadline = time.monotonic() + 10
    while metrics(port)["tokenspeed_num_requests_live"] > 0 and time.monotonic() < deadline:
        time.sleep(0.05)


def fail(reason: str) -> NoReturn:
    """Stop the demo with the reason and the end of the server's log."""
    log = (OUT / "server.log").read_text(errors="replace").splitlines()
    sys.exit("\n".join([f"error: {reason}; the end of {OUT / 'server.log'}:", *log[-15:]]))


if __name__ == "__main__":
    main()
