"""A device with memory, a host and a runner beside the scheduler: two independent accounts of what every plan means.

`World.account` is what a runner may believe: whose row a slot is, what a block table holds, where rows start, what a
step costs. `World.execute` is what lies in memory: every token written stands for the whole text up to it, so that each
read of each step can be compared with the text that should be there, with copies late and in any order. Neither reads
the scheduler state: only plans, copies, events and what the driver itself said.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenspeed.scheduler import GUARDS, CopyKind, EventKind, Scheduler, SchedulerConfig, StepPlan

Drafter = Callable[[list[int], int], list[int]]
"""(text so far, most tokens) -> draft tokens."""


def next_token(text: Sequence[int]) -> int:
    """What the model says after a text: few tokens, so that texts meet again."""
    return hash(tuple(text)) % 3


@dataclass
class Client:
    """One request as its client knows it."""

    text: list[int]
    prompt: int
    limit: int
    hashed: bool = False
    started: int | None = None
    """Where its next row starts; None while it waits."""
    decodes: bool = False
    """A row that ends in its first output token was planned since it was admitted."""
    stopped: bool = False
    drafts: list[int] = field(default_factory=list)
    drafted_at: int = 0
    """Tokens that were known when the drafts were offered."""
    slot: int | None = None
    entries: int = 0
    """Entries of its block table that the runner was told since it was admitted."""


@dataclass
class Row:
    """A row of a step in flight, as the runner keeps it."""

    request: int
    slot: int
    start: int
    tokens: list[int]
    outputs: int
    blocks: list[int]


@dataclass
class Step:
    number: int
    rows: list[Row]
    executed: bool = False
    sampled: list[list[int]] = field(default_factory=list)


class World:
    """Drives a scheduler and checks it. Any difference is an AssertionError that says what was expected."""

    def __init__(self, config: SchedulerConfig, seed: int, drafter: Drafter | None = None) -> None:
        self.config, self.random, self.drafter = config, random.Random(seed), drafter
        self.scheduler = Scheduler(config)
        self.clients: dict[int, Client] = {}
        self.texts: dict[int, list[int]] = {}
        self.ended: dict[int, str] = {}
        self.steps: deque[Step] = deque()
        self.tables: dict[int, dict[int, int]] = {}
        self.device: list[dict[int, tuple[int, ...]]] = [{} for _ in range(config.num_blocks)]
        self.host: list[dict[int, tuple[int, ...]]] = [{} for _ in range(config.num_host_blocks)]
        self.copies: dict[int, tuple[int, int, int, bool]] = {}
        self.reads = self.retractions = 0
        self.stops = 0.05

    # What the driver does.

    def submit(self, prompt: Sequence[int], max_new_tokens: int, *, hashed: bool = False) -> None:
        number = len(self.texts)
        if hashed:
            pages = range(self.config.block_size, len(prompt) + 1, self.config.block_size)
            names = [hash((-7, *prompt[:end])) % 2**64 for end in pages]
            accepted = self.scheduler.submit_hashed(number, len(prompt), np.array(names, np.uint64), max_new_tokens)
        else:
            accepted = self.scheduler.submit(number, np.array(prompt, np.int32), max_new_tokens)
        self.texts[number] = list(prompt)
        if accepted:
            self.clients[number] = Client(self.texts[number], len(prompt), len(prompt) + max_new_tokens, hashed)

    def abort(self, request: int) -> None:
        self.scheduler.abort(request)
        self.listen()
        assert self.ended[request] == "aborted"

    def plan(self) -> Step | None:
        plan = self.scheduler.plan()
        self.listen()
        batch = self.scheduler.copies()
        if batch is not None:
            rows = zip(batch.ids, batch.kinds, batch.blocks, batch.host_pages, strict=True)
            for copy, kind, block, page in rows:
                assert int(copy) not in self.copies
                self.copies[int(copy)] = (int(kind), int(block), int(page), False)
        if plan is None:
            return None
        step = self.account(plan)
        self.steps.append(step)
        assert len(self.steps) <= self.config.overlap_depth + 1
        return step

    def execute(self) -> None:
        """The device runs the oldest step that it has not run."""
        step = next(s for s in self.steps if not s.executed)
        step.executed = True
        for row in step.rows:
            text = self.texts[row.request]
            # Inputs that were not known when the step was planned are known when it runs.
            ids = [text[row.start + i] if token < 0 else token for i, token in enumerate(row.tokens)]
            seen = [*text[: row.start], *ids]
            for i in range(len(ids)):
                self.memory(row.blocks, row.start + i)[(row.start + i) % self.config.block_size] = tuple(
                    seen[: row.start + i + 1]
                )
            for at in range(len(seen)):
                found = self.memory(row.blocks, at).get(at % self.config.block_size)
                self.reads += 1
                assert found == tuple(seen[: at + 1]), (
                    f"step {step.number}, request {row.request}: position {at} holds {found}, not {seen[: at + 1]}"
                )
            results = []
            for i in range(row.outputs):
                end = len(seen) - row.outputs + i + 1
                results.append(next_token(seen[:end]))
                if end < len(seen) and results[-1] != seen[end]:
                    break
            step.sampled.append(results)
            self.texts[row.request] += results

    def land(self) -> None:
        while not self.steps[0].executed:
            self.execute()
        step = self.steps.popleft()
        tokens, counts, stop = [], [], []
        for row, results in zip(step.rows, step.sampled, strict=True):
            if row.outputs:
                tokens += results
                counts.append(len(results))
                stop.append(self.random.random() < self.stops)
                client = self.clients.get(row.request)
                if client is not None:
                    assert client.started is not None
                    client.stopped = client.stopped or stop[-1]
                    client.started -= row.outputs - len(results)
        given = None if counts == [1] * len(counts) and self.random.random() < 0.5 else counts
        self.scheduler.land(step.number, tokens, given, np.array(stop, dtype=bool))
        self.listen()
        self.scheduler.check()
        if self.drafter is not None:
            for row in step.rows:
                if row.request in self.clients and row.outputs:
                    client = self.clients[row.request]
                    client.drafted_at = self.known(row.request)
                    known = client.text[: client.drafted_at]
                    client.drafts = self.drafter(known, self.config.max_draft_tokens)
                    self.scheduler.offer_drafts(row.request, client.drafts)

    def copy(self, number: int) -> None:
        """The copy engine does a copy that has begun; nobody hears of it yet."""
        kind, block, page, done = self.copies[number]
        if not done:
            if kind == CopyKind.SPILL:
                self.host[page] = dict(self.device[block])
            else:
                self.device[block] = dict(self.host[page])
            self.copies[number] = (kind, block, page, True)

    def report(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.copy(number)
            del self.copies[number]
        self.scheduler.transfer_done(list(numbers))
        self.listen()

    # What the runner believes.

    def memory(self, blocks: list[int], position: int) -> dict[int, tuple[int, ...]]:
        return self.device[blocks[position // self.config.block_size]]

    def account(self, plan: StepPlan) -> Step:
        """The step, after everything in its plan was compared with what must be there."""
        rows: list[Row] = []
        arrays = (plan.request_ids, plan.slots, plan.start, plan.num_tokens, plan.outputs)
        busy = {row.slot: row.request for step in self.steps for row in step.rows}
        given = list(zip(plan.table_slots.tolist(), plan.table_index.tolist(), plan.table_blocks.tolist(), strict=True))
        assert all(0 <= slot < self.config.max_running for slot, _, _ in given)
        told = set(plan.slots.tolist())
        assert {slot for slot, _, _ in given} <= told, "entries for a slot that has no row"
        at = decode_rows = 0
        hashed = False
        for request, slot, start, count, outputs in zip(*(a.tolist() for a in arrays), strict=True):
            client = self.clients[request]
            hashed = hashed or client.hashed
            assert busy.get(slot, request) == request, f"slot {slot} is in flight for request {busy.get(slot)}"
            assert request not in [row.request for row in rows], "two rows of one request"
            if client.slot is None:
                client.slot, client.entries = slot, 0
                self.tables[slot] = {}
            assert client.slot == slot, f"request {request} moved from slot {client.slot} to {slot}"
            for _, index, block in (entry for entry in given if entry[0] == slot):
                assert index == client.entries, f"request {request}: entry {index} follows {client.entries - 1}"
                assert 0 <= block < self.config.num_blocks
                self.tables[slot][index] = block
                client.entries += 1
            assert start == client.started, f"request {request} starts at {start}, not {client.started}"
            pages = -(-(start + count) // self.config.block_size)
            assert client.entries >= pages, f"request {request}: {client.entries} entries for {start + count} tokens"
            blocks = [self.tables[slot][i] for i in range(client.entries)]
            assert len(set(blocks)) == len(blocks), "a block twice in one table"
            known = self.known(request)
            assert count >= 1 and start + count < client.limit
            ends = start + count >= known
            drafted = count - 1 if client.decodes else 0
            decode_rows += client.decodes
            client.decodes = client.decodes or outputs > 0
            assert outputs == (1 + drafted if ends else 0), f"row of {count} from {start}, {known} known: {outputs}"
            tokens = [client.text[p] if p < known else -1 for p in range(start, start + count)]
            if drafted:
                assert tokens[0] >= 0 and drafted <= len(client.drafts), "drafts that nobody offered"
                assert client.drafted_at == known, "drafts that are out of date"
                tokens = [tokens[0], *client.drafts[:drafted]]
            if len(plan.input_ids):
                assert plan.input_ids[at : at + count].tolist() == tokens, f"request {request}: wrong inputs"
                assert plan.positions[at : at + count].tolist() == list(range(start, start + count))
            at += count
            client.started = start + count
            rows.append(Row(request, slot, start, tokens, outputs, blocks))
        assert len({row.slot for row in rows}) == len(rows) > 0
        assert plan.tokens == at <= self.config.max_step_tokens, f"a step of {at} tokens"
        assert len(plan.input_ids) == len(plan.positions) == (0 if hashed else at)
        assert plan.sampling_rows == sum(row.outputs > 0 for row in rows)
        assert plan.context_tokens == sum(row.start + len(row.tokens) for row in rows)
        pairs = sum(row.start + i + 1 for row in rows for i in range(len(row.tokens)))
        assert plan.attention_pairs == pairs
        assert plan.decode_rows == decode_rows
        return Step(plan.step, rows)

    def known(self, request: int) -> int:
        """Tokens that the scheduler knows: those of steps that ran but have not landed are not among them."""
        pending = sum(len(s.sampled[i]) for s in self.steps if s.executed for i in self.rows_of(s, request))
        return len(self.clients[request].text) - pending

    @staticmethod
    def rows_of(step: Step, request: int) -> list[int]:
        return [i for i, row in enumerate(step.rows) if row.request == request and row.outputs]

    def listen(self) -> None:
        """What the scheduler tells."""
        for kind, request, value in self.scheduler.events():
            assert kind != EventKind.FAILED, f"request {request}: {GUARDS[value]}"
            if kind == EventKind.ADMITTED:
                client = self.clients[request]
                assert client.started is None and 0 <= value < len(client.text)
                client.started, client.slot, client.decodes = value, None, False
            elif kind == EventKind.RETRACTED:
                client = self.clients[request]
                assert client.started is not None
                client.started = client.slot = None
                self.retractions += 1
            elif kind in (EventKind.FINISHED, EventKind.ABORTED):
                known = self.known(request)
                client = self.clients.pop(request)
                self.ended[request] = "finished" if kind == EventKind.FINISHED else "aborted"
                assert value == known - client.prompt
                if kind == EventKind.FINISHED:
                    assert client.stopped or known == client.limit, "it ended too early"

    # Programs.

    def act(self) -> None:
        """One event at random: of the client, the planner, the device, the copy engine or the driver."""
        choice = self.random.random()
        if choice < 0.12:
            length = self.random.randint(1, 4 * self.config.block_size)
            prompt = [self.random.randrange(2) if self.random.random() < 0.3 else 0 for _ in range(length)]
            self.submit(prompt, self.random.randint(1, 4 * self.config.block_size))
        elif choice < 0.16 and self.clients:
            self.abort(self.random.choice(sorted(self.clients)))
        elif choice < 0.5:
            self.plan()
        elif choice < 0.65 and any(not s.executed for s in self.steps):
            self.execute()
        elif choice < 0.85 and self.steps:
            self.land()
        elif self.copies:
            number = self.random.choice(sorted(self.copies))
            if self.random.random() < 0.5:
                self.copy(number)
            else:
                self.report([number])

    def drain(self, rounds: int = 10_000) -> None:
        """Everything goes on until every request has ended; nothing may be left held."""
        for _ in range(rounds):
            if not self.clients and not self.steps and not self.copies:
                break
            if self.plan() is None:
                if self.steps:
                    self.land()
                elif self.copies:
                    self.report([self.random.choice(sorted(self.copies))])
                else:
                    waiting = {r: c.started for r, c in self.clients.items()}
                    assert self.plan() is not None, f"nothing happens any more; waiting: {waiting}"
                    self.land()
        stats = self.scheduler.stats()
        assert not self.clients, f"{len(self.clients)} requests never end"
        assert stats.held_blocks == stats.live_requests == stats.running == stats.waiting == 0
        assert stats.most_retractions <= self.config.max_retractions
        assert stats.retractions == self.retractions
