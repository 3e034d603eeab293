"""Executes the scheduler's plans: block tables, packed tokens, the model, and sampling."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...scheduler import StepPlan
from ..models.model import DecodePlan, Model, RowLengths, StepInputs
from ..text.sampling_params import SamplingParams
from .block_table import BlockTable
from .decode_graphs import DecodeGraphs, StepSize
from .exchange import Exchange, LaunchedStep
from .kv_cache import KVCache
from .sampler import SamplingTable, sample
from .step_arrays import StepArrays, StepShape
from .step_result import SampledRows


class ModelRunner:
    """One model with its KV cache and block tables. Takes plans in the order they were made, on one thread.

    Nothing waits for the device between two steps: inputs go through pinned memory, sampled tokens stay on the device
    for the next step, and results are fetched by `LaunchedStep.wait`, which any thread may call.
    """

    def __init__(
        self,
        model: Model,
        *,
        num_blocks: int,
        block_size: int,
        max_running: int,
        max_step_tokens: int = 8192,
        decode_buckets: Sequence[int] = (),
        draft_tokens: int = 0,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> None:
        """The first four limits are those of the `SchedulerConfig`; ValueError names one that is below 1.

        `decode_buckets`: rows that decode steps are padded to, increasing; see `capture`. `draft_tokens`: most drafts
        behind a row's token; steps of few rows that have some are padded to that width. `seed`: from which requests
        without a seed of their own derive one. `num_threads`: CPU threads of torch in this process; None leaves them
        as they are.
        """
        for name, value in (("max_running", max_running), ("max_step_tokens", max_step_tokens)):
            if value < 1:
                raise ValueError(f"{name}={value} is invalid: give at least 1")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.model = model
        # One block more than the scheduler knows of: what padding rows write goes there.
        self.cache = KVCache(model.cache_layout, num_blocks, block_size, model.device, padding_blocks=1)
        self._block_size = block_size
        self._max_step_tokens = max_step_tokens
        self._null_slot, self._null_block = max_running, num_blocks
        self._max_positions = model.max_positions
        columns = min(num_blocks, -(-self._max_positions // block_size))
        self._table = BlockTable(max_running, columns, self._null_block, model.device)
        self._sampling = SamplingTable(max_running, seed)
        self._last_tokens = torch.zeros(max_running + 1, dtype=torch.int32, device=model.device)
        self._decode_plans: dict[StepSize, DecodePlan | None] = {}
        self._graphs = DecodeGraphs(decode_buckets, draft_tokens, self._run_padded)
        most_rows = max((max_running, *decode_buckets))
        most_results = max((most_rows * (1 + draft_tokens), *(size.shape.results for size in self._graphs.sizes)))
        most_tokens = max(max_step_tokens, most_results)
        self._exchange = Exchange(StepShape(most_tokens, most_rows, most_results), model.device)
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(model.device))

    def execute(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> NDArray[np.int32]:
        """Run the step and return its sampled tokens, int32 [plan.sampling_rows], in row order. See `launch`."""
        return self.launch(plan, sampling).wait().tokens

    @torch.inference_mode()
    def launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> LaunchedStep:
        """Start the step; on a GPU this returns before the step is done, and the next plan may be launched.

        `sampling`: parameters by request id. Rows of requests that are not in it (they ended after the step was
        planned) are executed as planned and take the most likely token, which the scheduler ignores.
        Raises ValueError if the plan has no token ids, or reaches past the model's context or the runner's limits.
        """
        self._check(plan)
        try:
            return self._launch(plan, sampling)
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"the GPU has no memory for step {plan.step} of {plan.tokens} tokens: lower --kv-memory or "
                "--max-step-tokens"
            ) from error

    def _launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> LaunchedStep:
        sampling_rows = np.flatnonzero(plan.outputs)
        self._sampling.assign(plan.slots[sampling_rows], plan.request_ids[sampling_rows], sampling)
        with self._on_stream():
            self._table.apply(plan)
            size = self._graphs.size_for(plan)
            if size is not None:
                lane, _ = self._exchange.send(size.shape, lambda into: self._write_padded(plan, size, into))
                self._graphs.replay(size)
                first = (sampling_rows + 1) * size.tokens - plan.outputs[sampling_rows]
                return self._exchange.receive(lane, size.shape.results, SampledRows(first, _drafts(plan)))
            results = int(plan.outputs.sum())
            shape = StepShape(plan.tokens, plan.rows, results)
            lane, step = self._exchange.send(shape, lambda into: self._write(plan, sampling_rows, into))
            columns = -(-int((plan.start + plan.num_tokens).max()) // self._block_size)
            self._run(step, columns, lengths=RowLengths(plan.num_tokens, plan.start + plan.num_tokens))
            outputs = plan.outputs[sampling_rows].astype(np.int64)
            return self._exchange.receive(lane, results, SampledRows(np.cumsum(outputs) - outputs, _drafts(plan)))

    @torch.inference_mode()
    def capture(self, progress: Callable[[int, int, float], None] = lambda done, count, seconds: None) -> None:
        """Run a padded decode step of every size, and on a GPU record it as a CUDA graph. Called before any step.

        `progress` is told how many are done, how many there are, and the seconds since the start.
        """
        with self._on_stream():
            self._graphs.capture(self._stream, self._send_padding, progress)

    def _send_padding(self, size: StepSize) -> None:
        lane, _ = self._exchange.send(size.shape, lambda into: self._pad(size, 0, into))
        if self._stream is not None:
            self._stream.synchronize()
        self._exchange.give_back(lane)

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _check(self, plan: StepPlan) -> None:
        if len(plan.input_ids) != plan.tokens:
            raise ValueError(f"step {plan.step} has no token ids: requests of an engine are submitted with `submit`")
        end = int(np.max(plan.start + plan.num_tokens))
        if end > self._max_positions:
            raise ValueError(f"step {plan.step} reaches position {end - 1}; the model has {self._max_positions}")
        if plan.tokens > self._max_step_tokens:
            raise ValueError(f"step {plan.step} has {plan.tokens} tokens; max_step_tokens={self._max_step_tokens}")

    # On the host.

    def _write(self, plan: StepPlan, sampling_rows: NDArray[np.int64], into: StepArrays[NDArray[np.generic]]) -> None:
        """The inputs of a step of any rows."""
        row_of_token = np.repeat(np.arange(plan.rows), plan.num_tokens)
        slots = plan.slots[row_of_token]
        into.token_slots[:] = slots
        into.slot_mapping[:] = self._table.slots_of(slots, plan.positions, self._block_size)
        into.row_slots[:] = plan.slots
        into.input_ids[:] = plan.input_ids
        into.positions[:] = plan.positions
        into.context_lens[:] = plan.start + plan.num_tokens
        ends = np.cumsum(plan.num_tokens, dtype=np.int64)
        into.query_start[0] = 0
        into.query_start[1:] = ends
        outputs = plan.outputs[sampling_rows].astype(np.int64)
        row_of_result = np.repeat(sampling_rows, outputs)
        behind = np.repeat(np.cumsum(outputs), outputs) - np.arange(len(row_of_result))
        last = ends[row_of_result] - behind
        into.last[:] = last
        slots = plan.slots[row_of_result]
        into.result_slots[:] = np.where(plan.outputs[row_of_result] == 1, slots, self._null_slot)
        self._sampling.write(slots, plan.positions[last] + 1, into)

    def _write_padded(self, plan: StepPlan, size: StepSize, into: StepArrays[NDArray[np.generic]]) -> None:
        """The inputs of a decode step, padded to `size`. Every token samples, asked for or not.

        A row's tokens are the last ones of its place in the step.
        """
        self._pad(size, plan.rows, into)
        place = np.arange(plan.rows)
        if size.tokens > 1:
            ends = np.cumsum(plan.num_tokens, dtype=np.int64)
            row = np.repeat(place, plan.num_tokens)
            place = (row + 1) * size.tokens - (ends[row] - np.arange(plan.tokens))
        slots = plan.slots if size.tokens == 1 else plan.slots[row]
        into.token_slots[place] = slots
        into.slot_mapping[place] = self._table.slots_of(slots, plan.positions, self._block_size)
        into.input_ids[place] = plan.input_ids
        into.positions[place] = plan.positions
        into.row_slots[: plan.rows] = plan.slots
        into.context_lens[: plan.rows] = plan.start + plan.num_tokens
        last = np.arange(1, plan.rows + 1) * size.tokens - 1
        into.result_slots[last] = np.where(plan.outputs == 1, plan.slots, self._null_slot)
        self._sampling.write(slots, plan.positions + 1, into, place)

    def _pad(self, size: StepSize, rows: int, into: StepArrays[NDArray[np.generic]]) -> None:
        """Make everything but the first `rows` rows' tables and lengths padding, in a block that no request has."""
        count = size.shape.tokens
        into.token_slots[:] = into.result_slots[:] = self._null_slot
        into.slot_mapping[:] = self._null_block * self._block_size + np.arange(count) % self._block_size
        into.input_ids[:] = 0
        into.positions[:] = 0
        into.row_slots[rows:] = self._null_slot
        into.context_lens[rows:] = size.tokens
        into.query_start[:] = np.arange(size.rows + 1) * size.tokens
        into.last[:] = np.arange(count)
        into.temperature[:] = 0
        into.top_p[:] = 1
        into.min_p[:] = 0
        into.top_k[:] = 0
        into.uniform[:] = 0

    # On the device.

    def _run_padded(self, size: StepSize) -> None:
        step = self._exchange.device_arrays(size.shape)
        if size not in self._decode_plans:
            self._decode_plans[size] = self.model.plan_decode(
                step.context_lens, row_tokens=size.tokens, block_size=self._block_size, max_context=self._max_positions
            )
        decode_plan = self._decode_plans[size]
        if decode_plan is not None:
            decode_plan.fill(step.context_lens)
        self._run(step, self._table.on_device.shape[1], row_tokens=size.tokens, decode_plan=decode_plan)

    def _run(
        self,
        step: StepArrays[torch.Tensor],
        columns: int,
        *,
        lengths: RowLengths | None = None,
        row_tokens: int | None = None,
        decode_plan: DecodePlan | None = None,
    ) -> None:
        """The whole step, from token ids to sampled tokens. `columns`: of the block table that any row needs; for the
        rest see `StepInputs`."""
        # What the previous step sampled may be on the device only.
        ids = torch.where(step.input_ids < 0, self._last_tokens[step.token_slots], step.input_ids)
        inputs = StepInputs(
            positions=step.positions,
            slot_mapping=step.slot_mapping,
            block_table=self._table.on_device[step.row_slots, :columns],
            context_lens=step.context_lens,
            query_start=step.query_start,
            lengths=lengths,
            row_tokens=row_tokens,
            decode_plan=decode_plan,
        )
        hidden = self.model.forward(ids, inputs, self.cache)
        results = len(step.last)
        if not results:
            return
        logits = self.model.logits(hidden[step.last])
        tokens = sample(logits, step).int()
        self._last_tokens.index_copy_(0, step.result_slots, tokens)
        landing = self._exchange.results
        landing[:results, 0] = tokens
        landing[:results, 1] = logits.amax(dim=-1).isfinite()


def _drafts(plan: StepPlan) -> list[NDArray[np.int32]] | None:
    """The drafts of each sampling row; None if no row has any."""
    if int(np.max(plan.outputs)) <= 1:
        return None
    ends = np.cumsum(plan.num_tokens)
    return [plan.input_ids[ends[row] - plan.outputs[row] + 1 : ends[row]] for row in np.flatnonzero(plan.outputs)]
