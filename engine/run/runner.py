"""Executes the scheduler's plans: block tables, packed tokens, the model, and sampling."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ...scheduler import StepPlan
from ..models.llama import LlamaModel, PackedRows
from ..text.sampling_params import GREEDY, SamplingParams
from .kv_cache import KVCache
from .sampling import SamplingBatch, derive_seed, sample


class SampledTokens:
    """The tokens of a step that a device may still be computing."""

    def __init__(self, tokens: torch.Tensor) -> None:
        """`tokens`: int32 [sampling rows] on the model's device."""
        self._done: torch.cuda.Event | None = None
        self._host = tokens
        if tokens.is_cuda:
            self._host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._host.copy_(tokens, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def wait(self) -> NDArray[np.int32]:
        """The token ids, int32 [sampling rows], once the device has them."""
        if self._done is not None:
            self._done.synchronize()
        result: NDArray[np.int32] = self._host.numpy()
        return result


class ModelRunner:
    """One model with its KV cache and block tables. Takes plans in the order they were made, on one thread."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        num_blocks: int,
        block_size: int,
        max_running: int,
        seed: int = 0,
        num_threads: int | None = None,
    ) -> None:
        """The first three limits are those of the `SchedulerConfig`; ValueError names one that is below 1.

        `seed`: from which requests without a seed of their own derive one. `num_threads`: CPU threads of torch in this
        process; None leaves them as they are.
        """
        if max_running < 1:
            raise ValueError(f"max_running={max_running} is invalid: give at least 1")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.model = model
        self.cache = KVCache(model.config, num_blocks, block_size, model.dtype, model.device)
        self._block_size = block_size
        self._seed = seed
        self._max_positions = model.config.max_position_embeddings
        columns = min(num_blocks, -(-self._max_positions // block_size))
        self._table: NDArray[np.int32] = np.zeros((max_running, columns), dtype=np.int32)
        # On the CPU both are the same memory.
        self._device_table = torch.from_numpy(self._table).to(model.device)
        self._last_tokens = torch.zeros(max_running, dtype=torch.int32, device=model.device)

    def execute(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> NDArray[np.int32]:
        """Run the step and return its sampled tokens, int32 [plan.sampling_rows], in row order. See `launch`."""
        return self.launch(plan, sampling).wait()

    @torch.inference_mode()
    def launch(self, plan: StepPlan, sampling: Mapping[int, SamplingParams]) -> SampledTokens:
        """Start the step; on a GPU this returns before the step is done, and the next plan may be launched.

        `sampling`: parameters by request id. Rows of requests that are not in it (they ended after the step was
        planned) are executed as planned and take the most likely token, which the scheduler ignores.
        Raises ValueError if the plan has no token ids, or reaches past the model's context.
        """
        self._check(plan)
        self._apply_table_deltas(plan)
        row_of_token = np.repeat(np.arange(plan.rows), plan.num_tokens)
        slots = self._to_device(plan.slots)
        hidden = self.model.forward(
            self._input_ids(plan, row_of_token), self._packed_rows(plan, slots, row_of_token), self.cache
        )
        sampling_rows = np.flatnonzero(plan.samples)
        if not len(sampling_rows):
            return SampledTokens(torch.empty(0, dtype=torch.int32))
        last = np.cumsum(plan.num_tokens, dtype=np.int64)[sampling_rows] - 1
        logits = self.model.logits(hidden[self._to_device(last)])
        tokens = sample(logits, self._sampling_batch(plan, sampling_rows, sampling)).to(torch.int32)
        self._last_tokens[slots[self._to_device(sampling_rows)]] = tokens
        return SampledTokens(tokens)

    def _check(self, plan: StepPlan) -> None:
        if len(plan.input_ids) != plan.tokens:
            raise ValueError(f"step {plan.step} has no token ids: requests of an engine are submitted with `submit`")
        end = int(np.max(plan.start + plan.num_tokens))
        if end > self._max_positions:
            raise ValueError(f"step {plan.step} reaches position {end - 1}; the model has {self._max_positions}")

    def _apply_table_deltas(self, plan: StepPlan) -> None:
        if not len(plan.table_slots):
            return
        self._table[plan.table_slots, plan.table_index] = plan.table_blocks
        if self.model.device.type != "cpu":
            slots, index = plan.table_slots, plan.table_index
            # Read back, so that an entry that was set twice in one plan has one value whatever the device's order.
            values = self._to_device(self._table[slots, index])
            self._device_table[self._to_device(slots), self._to_device(index)] = values

    def _input_ids(self, plan: StepPlan, row_of_token: NDArray[np.int64]) -> torch.Tensor:
        """[tokens] with every -1 replaced by the last token sampled for its slot, which may be on the device only."""
        ids = self._to_device(plan.input_ids)
        if int(plan.input_ids.min()) >= 0:
            return ids
        slot_of_token = self._to_device(plan.slots[row_of_token])
        return torch.where(ids < 0, self._last_tokens[slot_of_token], ids)

    def _packed_rows(self, plan: StepPlan, slots: torch.Tensor, row_of_token: NDArray[np.int64]) -> PackedRows:
        size = self._block_size
        context_lens = plan.start + plan.num_tokens
        columns = -(-int(context_lens.max()) // size)
        blocks = self._table[plan.slots[row_of_token], plan.positions // size].astype(np.int64)
        query_start = np.zeros(plan.rows + 1, dtype=np.int32)
        np.cumsum(plan.num_tokens, out=query_start[1:])
        return PackedRows(
            positions=self._to_device(plan.positions),
            slot_mapping=self._to_device(blocks * size + plan.positions % size),
            block_table=self._device_table[slots, :columns],
            context_lens=self._to_device(context_lens),
            query_start=self._to_device(query_start),
        )

    def _sampling_batch(
        self, plan: StepPlan, sampling_rows: NDArray[np.int64], sampling: Mapping[int, SamplingParams]
    ) -> SamplingBatch:
        requests = plan.request_ids[sampling_rows].tolist()
        params = [sampling.get(request, GREEDY) for request in requests]
        seeds = [
            derive_seed(self._seed, request) if p.seed is None and not p.greedy else p.seed or 0
            for request, p in zip(requests, params, strict=True)
        ]
        return SamplingBatch(params, seeds, (plan.start + plan.num_tokens)[sampling_rows])

    def _to_device(self, array: NDArray[np.generic]) -> torch.Tensor:
        """On the CPU a view that is only read; the plan's arrays stay as they are until the step lands."""
        if not array.flags.writeable:  # torch warns about read-only arrays, though nothing here writes to them
            array = array.copy()
        return torch.from_numpy(array).to(self.model.device, non_blocking=True)
