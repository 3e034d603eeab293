"""The runner under the real scheduler: any interleaving gives each request what it gets when it runs alone."""

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenspeed.engine.models.config import LlamaConfig, RopeConfig
from tokenspeed.engine.models.llama import LlamaModel, PackedRows
from tokenspeed.engine.run.kv_cache import KVCache
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.run.sampling import SamplingBatch, derive_seed, sample
from tokenspeed.engine.text.sampling_params import GREEDY, SamplingParams
from tokenspeed.scheduler import Scheduler, SchedulerConfig, StepPlan

pytestmark = pytest.mark.serve

CONFIG = LlamaConfig(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=80,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    rms_norm_eps=1e-5,
    rope=RopeConfig(theta=100.0, dim=12),
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def random_tensors(config: LlamaConfig) -> dict[str, torch.Tensor]:
    """Weights large enough that the next token depends on the whole context."""
    generator = torch.Generator().manual_seed(7)
    c = config
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, c.hidden_size),
        "model.norm.weight": (c.hidden_size,),
        "lm_head.weight": (c.vocab_size, c.hidden_size),
    }
    for layer in range(c.num_layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (c.hidden_size,),
                "self_attn.q_proj": (c.num_heads * c.head_dim, c.hidden_size),
                "self_attn.k_proj": (c.num_kv_heads * c.head_dim, c.hidden_size),
                "self_attn.v_proj": (c.num_kv_heads * c.head_dim, c.hidden_size),
                "self_attn.o_proj": (c.hidden_size, c.num_heads * c.head_dim),
                "post_attention_layernorm": (c.hidden_size,),
                "mlp.gate_proj": (c.intermediate_size, c.hidden_size),
                "mlp.up_proj": (c.intermediate_size, c.hidden_size),
                "mlp.down_proj": (c.hidden_size, c.intermediate_size),
            }.items()
        }
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


@pytest.fixture(scope="module", params=DEVICES)
def model(request: pytest.FixtureRequest) -> LlamaModel:
    return LlamaModel(CONFIG, random_tensors(CONFIG), device=request.param)


def alone(model: LlamaModel, prompt: Sequence[int], params: SamplingParams, seed: int) -> list[int]:
    """What the request generates when the whole sequence is run anew for each token."""
    tokens = list(prompt)
    for _ in range(params.max_tokens):
        n = len(tokens)
        rows = PackedRows(
            positions=torch.arange(n),
            slot_mapping=torch.arange(n),
            block_table=torch.zeros((1, 1), dtype=torch.int32),
            context_lens=torch.tensor([n], dtype=torch.int32),
            query_start=torch.tensor([0, n], dtype=torch.int32),
        )
        on_device = {f.name: getattr(rows, f.name).to(model.device) for f in dataclasses.fields(rows)}
        cache = KVCache(CONFIG, 1, 64, model.dtype, model.device)
        hidden = model.forward(torch.tensor(tokens, device=model.device), PackedRows(**on_device), cache)
        tokens.append(int(sample(model.logits(hidden[-1:]), SamplingBatch([params], [seed], np.array([n])))))
    return tokens[len(prompt) :]


def drive(
    scheduler: Scheduler, runner: ModelRunner, sampling: dict[int, SamplingParams], aborts: dict[int, int] | None = None
) -> dict[int, list[int]]:
    """Run all that was submitted to its end; `aborts`: request id -> step after whose planning it is aborted."""
    outputs: dict[int, list[int]] = {request: [] for request in sampling}
    live = dict(sampling)
    in_flight: deque[tuple[StepPlan, NDArray[np.int32]]] = deque()
    pending = dict(aborts or {})
    while True:
        while (plan := scheduler.plan()) is not None:
            for request in [r for r, step in pending.items() if plan.step >= step and outputs.get(r) is not None]:
                del pending[request]
                if request in live and len(outputs[request]) < live[request].max_tokens:
                    scheduler.abort(request)
                    del live[request]  # its rows of this plan are stale, and its parameters are gone
            in_flight.append((plan, runner.execute(plan, live)))
        if not in_flight:
            return outputs
        plan, tokens = in_flight.popleft()
        assert tokens.dtype == np.int32
        assert tokens.shape == (plan.sampling_rows,)
        for request, token in zip(plan.request_ids[plan.samples].tolist(), tokens.tolist(), strict=True):
            if request in live:
                outputs[request].append(token)
        scheduler.land(plan.step, tokens)


PARAMS = [
    GREEDY,
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.8, top_p=0.8, seed=-5),
    SamplingParams(temperature=1.5, top_k=10, seed=2**63 - 1),
    SamplingParams(temperature=1.0),
]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_each_request_what_it_gets_alone(model: LlamaModel, data: st.DataObject) -> None:
    block_size = data.draw(st.sampled_from([1, 3, 4, 16]), label="block_size")
    config = SchedulerConfig(
        # A request of 40 tokens must fit; beyond that the pool may be too small for two.
        num_blocks=-(-40 // block_size) + data.draw(st.integers(1, 20), label="spare blocks"),
        block_size=block_size,
        max_running=data.draw(st.integers(1, 5), label="max_running"),
        max_step_tokens=data.draw(st.integers(5, 40), label="max_step_tokens"),
        overlap_depth=data.draw(st.integers(0, 1), label="overlap_depth"),
        prefix_cache=data.draw(st.booleans(), label="prefix_cache"),
    )
    runner = ModelRunner(
        model, num_blocks=config.num_blocks, block_size=block_size, max_running=config.max_running, seed=99
    )
    scheduler = Scheduler(config)
    shared = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=16), label="shared prefix")
    sampling: dict[int, SamplingParams] = {}
    prompts: dict[int, list[int]] = {}
    for request in range(data.draw(st.integers(1, 6), label="requests")):
        own = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=8))
        prompts[request] = shared * data.draw(st.integers(0, 1)) + own
        params = data.draw(st.sampled_from(PARAMS))
        sampling[request] = dataclasses.replace(params, max_tokens=data.draw(st.integers(1, 12)))
        assert scheduler.submit(request, np.array(prompts[request], dtype=np.int32), sampling[request].max_tokens)
    aborts = data.draw(
        st.dictionaries(st.sampled_from(sorted(prompts)), st.integers(1, 12), max_size=2), label="aborts"
    )
    outputs = drive(scheduler, runner, sampling, aborts)
    for request, tokens in outputs.items():
        params = sampling[request]
        seed = derive_seed(99, request) if params.seed is None else params.seed
        expected = alone(model, prompts[request], params, seed)
        assert tokens == (expected[: len(tokens)] if request in aborts else expected)
    stats = scheduler.stats()
    assert stats.live_requests == stats.held_blocks == 0


def test_a_sampled_request_survives_retraction_unchanged(model: LlamaModel) -> None:
    """Two requests that cannot both end in the pool: one is recomputed from its prompt and what it had generated."""
    params = SamplingParams(temperature=1.2, seed=42, max_tokens=20)
    prompts = {0: [1, 2, 3, 4, 5, 6], 1: [9, 8, 7, 6, 5, 4], 2: [3, 3, 3, 3, 3, 3]}
    scheduler = Scheduler(SchedulerConfig(num_blocks=10, block_size=4, max_running=3, max_step_tokens=16))
    runner = ModelRunner(model, num_blocks=10, block_size=4, max_running=3)
    for request, prompt in prompts.items():
        assert scheduler.submit(request, np.array(prompt, dtype=np.int32), params.max_tokens)
    outputs = drive(scheduler, runner, dict.fromkeys(prompts, params))
    assert scheduler.stats().retractions > 0
    for request, prompt in prompts.items():
        assert outputs[request] == alone(model, prompt, params, 42)


@dataclasses.dataclass
class Plan:
    """A plan written by hand: one row for each entry of `rows` (slot, start, token ids, whether it samples)."""

    rows_: list[tuple[int, int, list[int], bool]]
    deltas: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    step: int = 1

    def __post_init__(self) -> None:
        self.rows = len(self.rows_)
        self.request_ids = np.arange(self.rows, dtype=np.int64)
        self.slots = np.array([slot for slot, *_ in self.rows_], dtype=np.int32)
        self.start = np.array([start for _, start, *_ in self.rows_], dtype=np.int32)
        self.num_tokens = np.array([len(ids) for _, _, ids, _ in self.rows_], dtype=np.int32)
        self.samples = np.array([samples for *_, samples in self.rows_], dtype=np.bool_)
        self.sampling_rows = int(self.samples.sum())
        self.tokens = int(self.num_tokens.sum())
        self.input_ids = np.array([i for _, _, ids, _ in self.rows_ for i in ids], dtype=np.int32)
        self.positions = np.array(
            [start + i for _, start, ids, _ in self.rows_ for i in range(len(ids))], dtype=np.int32
        )
        table = np.array(self.deltas, dtype=np.int32).reshape(-1, 3)
        self.table_slots, self.table_index, self.table_blocks = (np.ascontiguousarray(c) for c in table.T)
        for field in ("slots", "start", "num_tokens", "samples", "input_ids", "positions", "table_slots"):
            getattr(self, field).flags.writeable = False  # as the scheduler's views may be


def execute(runner: ModelRunner, plan: Plan) -> list[int]:
    tokens: list[int] = runner.execute(cast(StepPlan, plan), dict.fromkeys(range(plan.rows), GREEDY)).tolist()
    return tokens


@pytest.fixture
def runner(model: LlamaModel) -> ModelRunner:
    return ModelRunner(model, num_blocks=32, block_size=4, max_running=4)


def greedy(model: LlamaModel, prompt: list[int], count: int) -> list[int]:
    return alone(model, prompt, dataclasses.replace(GREEDY, max_tokens=count), 0)


def test_minus_one_is_the_last_token_sampled_for_the_slot(model: LlamaModel, runner: ModelRunner) -> None:
    a, b = greedy(model, [5, 6, 7], 3), greedy(model, [8, 9], 3)
    first = Plan([(3, 0, [5, 6, 7], True), (1, 0, [8, 9], True)], [(3, 0, 17), (1, 0, 2), (3, 1, 4)])
    assert execute(runner, first) == [a[0], b[0]]
    # The rows change places, and another slot samples in between.
    assert execute(runner, Plan([(1, 2, [-1], True), (0, 0, [1, 1], True)], [(0, 0, 5)]))[0] == b[1]
    assert execute(runner, Plan([(1, 3, [-1], True), (3, 3, [-1], True)])) == [b[2], a[1]]
    assert execute(runner, Plan([(3, 4, [-1], True)])) == [a[2]]


def test_a_row_without_sample_leaves_the_last_token_of_its_slot(model: LlamaModel, runner: ModelRunner) -> None:
    assert execute(runner, Plan([(0, 0, [5, 6], False)], [(0, 0, 9)])) == []
    assert execute(runner, Plan([(0, 2, [7], True)])) == greedy(model, [5, 6, 7], 1)


def test_the_last_of_two_deltas_for_one_entry_counts(model: LlamaModel, runner: ModelRunner) -> None:
    execute(runner, Plan([(0, 0, [5, 6], False)], [(0, 0, 9), (0, 0, 11)]))
    # The same block through another slot sees what was written.
    assert execute(runner, Plan([(2, 2, [7], True)], [(2, 0, 11)])) == greedy(model, [5, 6, 7], 1)


def test_a_shared_block_is_read_by_two_requests(model: LlamaModel, runner: ModelRunner) -> None:
    prefix = [5, 6, 7, 8]
    execute(runner, Plan([(0, 0, prefix, False)], [(0, 0, 3)]))
    rows: list[Any] = [(0, 4, [1], True), (1, 4, [2, 3], True)]
    tokens = execute(runner, Plan(rows, [(0, 1, 4), (1, 0, 3), (1, 1, 5)]))
    assert tokens == greedy(model, [*prefix, 1], 1) + greedy(model, [*prefix, 2, 3], 1)


def test_a_plan_without_token_ids_is_refused(runner: ModelRunner) -> None:
    plan = Plan([(0, 0, [1, 2], True)], [(0, 0, 0)])
    plan.input_ids = np.empty(0, dtype=np.int32)
    with pytest.raises(ValueError, match="has no token ids"):
        execute(runner, plan)


def test_a_plan_past_the_context_is_refused(runner: ModelRunner) -> None:
    with pytest.raises(ValueError, match="position 64"):
        execute(runner, Plan([(0, 63, [1, 2], True)], [(0, 15, 0)]))


@pytest.mark.parametrize("field", ["num_blocks", "block_size", "max_running"])
def test_a_limit_below_one_is_refused_by_name(model: LlamaModel, field: str) -> None:
    limits = {"num_blocks": 4, "block_size": 4, "max_running": 4, field: 0}
    with pytest.raises(ValueError, match=f"{field}=0"):
        ModelRunner(model, **limits)


def test_bytes_per_block_is_what_a_block_takes() -> None:
    cache = KVCache(CONFIG, 10, 4, torch.bfloat16, torch.device("cpu"))
    taken = sum(tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in layer)
    assert KVCache.bytes_per_block(CONFIG, 4, torch.bfloat16) * 10 == taken
