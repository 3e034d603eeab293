"""What the server's tests run instead of a model: a paged stand-in, a byte tokenizer, and a real server on a thread."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import tokenizers
import uvicorn
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tokenspeed.engine.loop.async_engine import AsyncEngine
from tokenspeed.engine.loop.control_loop import ControlLoop, Snapshot, Submission
from tokenspeed.engine.loop.events import Ended, Failed, Rejected, RequestEvent, Text
from tokenspeed.engine.loop.trace_recorder import TraceRecorder
from tokenspeed.engine.run.drafts import Drafter
from tokenspeed.engine.run.step_result import StepResult
from tokenspeed.engine.served_model import ServedModel
from tokenspeed.engine.server.app import create_app
from tokenspeed.engine.server.service import Phase, Service
from tokenspeed.engine.server.wire.connection import Connection
from tokenspeed.engine.text.chat_template import ChatTemplate
from tokenspeed.engine.text.detokenizer import WindowDetokenizer
from tokenspeed.engine.text.sampling_params import SamplingParams
from tokenspeed.engine.text.tokenizer import Tokenizer
from tokenspeed.scheduler import CopyBatch, CopyKind, Scheduler, SchedulerConfig, StepPlan

Rule = Callable[[NDArray[np.int32]], int]

END, GO = 256, 257
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|go|>{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Token i < 256 is byte i; then come <|end|> (256), which ends an answer, and <|go|> (257), where one begins."""
    # The characters that byte-level BPE writes for bytes.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|go|>", special=True)])
    return Tokenizer(backend, eos_token_ids=[END])


def hashed(context: NDArray[np.int32]) -> int:
    """A printable character that depends on every token of the context and on its place."""
    weights = (np.arange(1, len(context) + 1, dtype=np.int64) * 2654435761) % 1000003
    return 32 + int((context.astype(np.int64) + 1) @ weights) % 95


def scripted(context: NDArray[np.int32]) -> int:
    """Says what stands between "say:" and "|" in the prompt, then ends; without that, `hashed`."""
    data = bytes(int(token) if token < 256 else 0 for token in context)
    script = re.search(rb"say:([^|]*)\|", data)
    if script is None:
        return hashed(context)
    go = np.flatnonzero(context == GO)
    spoken = len(context) - (int(go[-1]) + 1 if len(go) else script.end())
    return script[1][spoken] if spoken < len(script[1]) else END


def by_turn(context: NDArray[np.int32]) -> int:
    """Says the first, second, ... of the parts that "~" separates in the script, by how many tools have answered."""
    data = bytes(int(token) if token < 256 else 0 for token in context)
    script = re.search(rb"say:([^|]*)\|", data)
    assert script is not None, "a prompt without a script"
    parts = script[1].split(b"~")
    go = int(np.flatnonzero(context == GO)[-1])
    words = parts[min(data[:go].count(b"<tool_response>"), len(parts) - 1)]
    spoken = len(context) - go - 1
    return words[spoken] if spoken < len(words) else END


def expected_text(prompt: bytes, max_tokens: int, rule: Rule = hashed) -> str:
    """What the server must answer for the prompt, by the rule alone."""
    context = list(prompt)
    for _ in range(max_tokens):
        token = rule(np.array(context, dtype=np.int32))
        if token == END:
            break
        context.append(token)
    return bytes(context[len(prompt) :]).decode(errors="replace")


class PagedStep:
    """A step that `PagedRunner` has been told to run."""

    def __init__(self, device: PagedRunner, plan: StepPlan) -> None:
        self.plan = plan
        self._device = device
        self.result: StepResult | Exception | None = None

    def wait(self) -> StepResult:
        """Let the device go on until it has run the step."""
        self._device.advance(self)
        assert self.result is not None
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class PagedRunner:
    """Executes plans by the block tables alone, on a device that is always late.

    It stores tokens where a model stores keys and values, and the next token is a rule over what it then reads back: a
    block that is shared wrongly or reused too early changes the output. Nothing is run when a step is launched: the
    device does it while somebody waits for a result, and now and then runs ahead of what is waited for.
    """

    def __init__(self, config: SchedulerConfig, rule: Rule = scripted) -> None:
        self._size = config.block_size
        self._rule = rule
        self._pool = np.full(config.num_blocks * config.block_size, -1, dtype=np.int32)
        self._host = np.full((config.num_host_blocks, config.block_size), -1, dtype=np.int32)
        self.copy_seconds = 0.0
        self._table = np.zeros((config.max_running, config.num_blocks), dtype=np.int32)
        self._last = np.zeros(config.max_running, dtype=np.int32)
        self._gate = threading.Event()
        self._gate.set()
        self._queue: deque[PagedStep] = deque()
        self._pace = random.Random(config.num_blocks)
        self.step_seconds = 0.0
        self.most_launched = 0
        """Most steps that were launched and not run at one time."""
        self.before_step: Callable[[StepPlan], None] = lambda plan: None

    def hold(self) -> None:
        """Make steps wait from now on."""
        self._gate.clear()

    def release(self) -> None:
        """Let steps run again."""
        self._gate.set()

    def launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> PagedStep:
        """Queue the step on the device."""
        assert set(sampling) >= set(plan.request_ids[plan.outputs > 0].tolist())
        step = PagedStep(self, plan)
        self._queue.append(step)
        self.most_launched = max(self.most_launched, len(self._queue))
        return step

    def advance(self, until: PagedStep) -> None:
        """Run the launched steps in order up to this one, and perhaps one more. Called on one thread."""
        self._gate.wait(60)
        time.sleep(self.step_seconds)
        while until.result is None:
            self._run(self._queue.popleft())
        if self._queue and self._pace.random() < 0.3:
            self._run(self._queue.popleft())

    def _run(self, step: PagedStep) -> None:
        try:
            self.before_step(step.plan)
            rows = self._compute(step.plan)
        except Exception as error:
            step.result = error
        else:
            counts = np.array([len(row) for row in rows], dtype=np.int32)
            tokens = np.array([token for row in rows for token in row], dtype=np.int32)
            step.result = StepResult(tokens, counts, np.ones(len(rows), dtype=np.bool_))

    def _compute(self, plan: StepPlan) -> list[list[int]]:
        """The accepted tokens of each sampling row."""
        self._table[plan.table_slots, plan.table_index] = plan.table_blocks
        rows, at = [], 0
        for slot, start, count, outputs in zip(plan.slots, plan.start, plan.num_tokens, plan.outputs, strict=True):
            ids = plan.input_ids[at : at + count]
            positions = np.arange(start + count)
            places = self._table[slot, positions // self._size] * self._size + positions % self._size
            self._pool[places[start:]] = np.where(ids < 0, self._last[slot], ids)
            if outputs:
                said = [self._rule(self._pool[places[: start + count - outputs + 1]])]
                for draft in ids[count - outputs + 1 :].tolist():
                    if draft != said[-1]:
                        break
                    said.append(self._rule(self._pool[places[: start + count - outputs + 1 + len(said)]]))
                self._last[slot] = said[-1]
                rows.append(said)
            at += count
        return rows

    def copy(self, batch: CopyBatch) -> None:
        """Copy blocks to the host and back, in no particular order."""
        time.sleep(self.copy_seconds)
        blocks = self._pool.reshape(-1, self._size)
        for kind, block, page in list(zip(batch.kinds, batch.blocks, batch.host_pages, strict=True))[::-1]:
            if kind == CopyKind.SPILL:
                self._host[page] = blocks[block]
            else:
                blocks[block] = self._host[page]


def small_config(**changes: Any) -> SchedulerConfig:
    """A pool of 256 blocks of 4 tokens, 16 slots and 64 tokens a step, with changes."""
    sizes: dict[str, Any] = {"num_blocks": 256, "block_size": 4, "max_running": 16, "max_step_tokens": 64}
    return SchedulerConfig(**(sizes | changes))


class LoopHarness:
    """A control loop with a `PagedRunner`, whose outputs are collected by request."""

    def __init__(
        self,
        config: SchedulerConfig | None = None,
        *,
        rule: Rule = scripted,
        scheduler: Any = None,
        decode: Any = None,
        trace: Callable[[Scheduler], TraceRecorder] | None = None,
        step_timeout: float | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        config = config or small_config()
        self.scheduler = Scheduler(config) if scheduler is None else scheduler
        self.runner = PagedRunner(config, rule)
        self.outputs: dict[int, list[RequestEvent]] = defaultdict(list)
        self.published: list[list[RequestEvent]] = []
        self.failed = threading.Event()
        self._news = threading.Condition()
        self._finished: set[int] = set()
        tokenizer = byte_tokenizer()
        self.loop = ControlLoop(
            self.scheduler,
            self.runner,
            detokenizer=lambda prompt, _: (
                WindowDetokenizer(decode, prompt) if decode else tokenizer.detokenizer(prompt)
            ),
            eos_token_ids=tokenizer.eos_token_ids,
            publish=self._publish,
            on_failure=self.failed.set,
            copier=self.runner,
            trace=None if trace is None else trace(self.scheduler),
            step_timeout=step_timeout,
            drafter=drafter,
        )
        self.loop.start()

    def _publish(self, events: list[RequestEvent]) -> None:
        with self._news:
            self.published.append(events)
            for event in events:
                assert event.request_id not in self._finished, "news of a request that is over"
                self.outputs[event.request_id].append(event)
                if isinstance(event, Ended | Failed | Rejected):
                    self._finished.add(event.request_id)
            self._news.notify_all()

    def submit(self, request_id: int, prompt: Sequence[int], **params: Any) -> None:
        """Queue a request whose prompt is these tokens (or bytes)."""
        self.loop.submit(Submission(request_id, np.array(list(prompt), dtype=np.int32), SamplingParams(**params)))

    def wait(self, *request_ids: int) -> None:
        """Return when all of them are over."""
        with self._news:
            assert self._news.wait_for(lambda: self._finished.issuperset(request_ids), 30), "requests are stuck"

    def wait_for_tokens(self, request_id: int, count: int) -> None:
        """Return when the request has so many output tokens."""
        with self._news:
            assert self._news.wait_for(lambda: self.tokens(request_id) >= count, 30), "too few tokens"

    def text(self, request_id: int) -> str:
        """Output so far."""
        return "".join(event.text for event in self.outputs[request_id] if isinstance(event, Text))

    def tokens(self, request_id: int) -> int:
        """Output tokens so far."""
        return sum(event.tokens for event in self.outputs[request_id] if isinstance(event, Text))

    def reason(self, request_id: int) -> str | None:
        """Why the request ended: as in `Ended`, error if it failed, rejected if it was; None while it runs."""
        match self.outputs[request_id][-1]:
            case Ended(reason=reason):
                return reason
            case Failed():
                return "error"
            case Rejected():
                return "rejected"
        return None

    def error(self, request_id: int) -> str:
        """What went wrong, of a request that failed or was rejected."""
        last = self.outputs[request_id][-1]
        assert isinstance(last, Failed | Rejected)
        return last.reason

    def snapshot(self) -> Snapshot:
        """The scheduler's counters, asked for through the loop."""
        answer: Future[Snapshot] = Future()
        self.loop.ask(answer.set_result)
        return answer.result(30)

    def close(self) -> None:
        """End the loop; nothing may be left, and the scheduler's own recount must agree."""
        self.runner.release()
        assert self.loop.close(30)
        stats = self.scheduler.stats()
        assert (stats.live_requests, stats.held_blocks, stats.steps_in_flight) == (0, 0, 0)
        self.scheduler.check()


class ServerThread:
    """A server with a `PagedRunner` on a real socket, run by a thread of its own."""

    def __init__(
        self, config: SchedulerConfig, rule: Rule = scripted, *, max_waiting: int = 128, api_keys: Sequence[str] = ()
    ) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        self.runner = PagedRunner(config, rule)
        self.service: Service
        self._max_waiting = max_waiting
        self._api_keys = api_keys
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._ready = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        self._events = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.service = Service()
        tokenizer = byte_tokenizer()
        engine = AsyncEngine(
            self.scheduler,
            self.runner,
            tokenizer,
            self.service.metrics,
            max_waiting=self._max_waiting,
            on_failure=lambda: setattr(self.service, "phase", Phase.FAILED),
        )
        app = create_app(self.service, self._api_keys)
        longest = self.config.num_blocks * self.config.block_size
        self.service.start(engine, ServedModel("fake", tokenizer, ChatTemplate(TEMPLATE), longest))
        config = uvicorn.Config(app, http=Connection, log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        http = asyncio.create_task(server.serve(sockets=[self._listener]))
        self._ready.set()
        await self._stop.wait()
        self._closed = await asyncio.to_thread(engine.close, 10)
        server.should_exit = True
        await http

    def close(self) -> None:
        """Stop the server."""
        self.runner.release()
        self._events.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert self._closed

    def metric(self, name: str) -> float:
        """The value of one sample of /metrics, given with its labels."""
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    def wait_until(self, name: str, value: float) -> None:
        """Return when a metric has the value; fails after 20 s."""
        deadline = time.monotonic() + 20
        while (seen := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {seen} after 20 s, not {value}"
            time.sleep(0.02)

    def assert_drained(self) -> None:
        """No request is left and no block is held."""
        self.wait_until("tokenspeed_num_requests_live", 0)
        self.wait_until('tokenspeed_kv_cache_blocks{state="held"}', 0)
        self.wait_until("tokenspeed_num_steps_in_flight", 0)


@contextmanager
def running_server(config: SchedulerConfig | None = None, **options: Any) -> Iterator[ServerThread]:
    """A server for the block; afterwards nothing may be held and the scheduler's own recount must agree."""
    server = ServerThread(config or small_config(), **options)
    try:
        yield server
        if server.service.phase is Phase.READY:
            server.runner.release()
            server.assert_drained()
    finally:
        server.close()
    server.scheduler.check()
