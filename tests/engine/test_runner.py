"""The runner under the real scheduler: any interleaving gives each request what it gets when it runs alone."""

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.engine.checkpoints.tensors import WholeTensors
from tokenspeed.engine.checkpoints.weights import CheckpointWeights
from tokenspeed.engine.models.model import Model, StepInputs
from tokenspeed.engine.models.registry import read
from tokenspeed.engine.run.decode_graphs import default_buckets
from tokenspeed.engine.run.exchange import LaunchedStep
from tokenspeed.engine.run.kv_cache import KVCache
from tokenspeed.engine.run.runner import ModelRunner
from tokenspeed.engine.run.sampling import derive_seed, uniform
from tokenspeed.engine.text.sampling_params import GREEDY, SamplingParams
from tokenspeed.kernels import sample_tokens
from tokenspeed.scheduler import Scheduler, SchedulerConfig, StepPlan

pytestmark = pytest.mark.serve

RAW = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "max_position_embeddings": 64,
}
LLAMA, CONFIG = read(RAW)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def random_tensors(config: Any) -> dict[str, torch.Tensor]:
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
                "mlp.gate_proj": (RAW["intermediate_size"], c.hidden_size),
                "mlp.up_proj": (RAW["intermediate_size"], c.hidden_size),
                "mlp.down_proj": (c.hidden_size, RAW["intermediate_size"]),
            }.items()
        }
    return {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}


@pytest.fixture(scope="module", params=DEVICES)
def model(request: pytest.FixtureRequest) -> Model:
    return LLAMA.build(
        CONFIG, CheckpointWeights(WholeTensors(random_tensors(CONFIG))), torch.float32, torch.device(request.param)
    )


def alone(model: Model, prompt: Sequence[int], params: SamplingParams, seed: int) -> list[int]:
    """What the request generates when the whole sequence is run anew for each token."""
    tokens = list(prompt)
    for _ in range(params.max_tokens):
        n = len(tokens)
        rows = StepInputs(
            positions=torch.arange(n),
            slot_mapping=torch.arange(n),
            block_table=torch.zeros((1, 1), dtype=torch.int32),
            context_lens=torch.tensor([n], dtype=torch.int32),
            query_start=torch.tensor([0, n], dtype=torch.int32),
        )
        tensors = ("positions", "slot_mapping", "block_table", "context_lens", "query_start")
        on_device = {name: getattr(rows, name).to(model.device) for name in tensors}
        cache = KVCache(model.cache_layout, 1, 64, model.device)
        hidden = model.forward(torch.tensor(tokens, device=model.device), StepInputs(**on_device), cache)
        number = uniform(np.array([seed], dtype=np.int64), np.array([n], dtype=np.int64))
        tokens.append(
            int(
                sample_tokens(
                    model.logits(hidden[-1:]),
                    temperature=torch.tensor([params.temperature], device=model.device),
                    top_k=torch.tensor([params.top_k], dtype=torch.int32, device=model.device),
                    top_p=torch.tensor([params.top_p], device=model.device),
                    min_p=torch.tensor([params.min_p], device=model.device),
                    uniform=torch.from_numpy(number).to(model.device),
                )
            )
        )
    return tokens[len(prompt) :]


def drive(
    scheduler: Scheduler,
    runner: ModelRunner,
    sampling: dict[int, SamplingParams],
    aborts: dict[int, int] | None = None,
    drafts: Callable[[int, int], list[int]] | None = None,
) -> dict[int, list[int]]:
    """Run all that was submitted to its end; `aborts`: request id -> step after whose planning it is aborted.

    `drafts`: what is drafted for a request, by its id and the tokens that it has.
    """
    outputs: dict[int, list[int]] = {request: [] for request in sampling}
    live = dict(sampling)
    in_flight: deque[tuple[StepPlan, LaunchedStep]] = deque()
    pending = dict(aborts or {})
    while True:
        while (plan := scheduler.plan()) is not None:
            for request in [r for r, step in pending.items() if plan.step >= step and outputs.get(r) is not None]:
                del pending[request]
                if request in live and len(outputs[request]) < live[request].max_tokens:
                    scheduler.abort(request)
                    del live[request]  # its rows of this plan are stale, and its parameters are gone
            in_flight.append((plan, runner.launch(plan, live)))
        if not in_flight:
            return outputs
        plan, launched = in_flight.popleft()
        result = launched.wait()
        tokens = result.tokens
        assert result.healthy.all()
        assert tokens.dtype == np.int32
        assert tokens.shape == (result.counts.sum(),)
        rows = plan.request_ids[plan.outputs > 0].tolist()
        for request, own in zip(rows, np.split(tokens, np.cumsum(result.counts))[:-1], strict=True):
            if request in live:
                outputs[request] += own.tolist()
        scheduler.land(plan.step, tokens, result.counts)
        for request in rows:
            if drafts is not None and request in live and len(outputs[request]) < live[request].max_tokens:
                scheduler.offer_drafts(request, drafts(request, len(outputs[request])))


PARAMS = [
    GREEDY,
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.8, top_p=0.8, seed=-5),
    SamplingParams(temperature=1.5, top_k=10, seed=2**63 - 1),
    SamplingParams(temperature=1.0),
]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_schedule_gives_each_request_what_it_gets_alone(model: Model, data: st.DataObject) -> None:
    block_size = data.draw(st.sampled_from([1, 3, 4, 16]), label="block_size")
    config = SchedulerConfig(
        # A request of 40 tokens must fit; beyond that the pool may be too small for two.
        num_blocks=-(-40 // block_size) + data.draw(st.integers(1, 20), label="spare blocks"),
        block_size=block_size,
        max_running=data.draw(st.integers(1, 5), label="max_running"),
        max_step_tokens=data.draw(st.integers(5, 40), label="max_step_tokens"),
        overlap_depth=data.draw(st.integers(0, 2), label="overlap_depth"),
        prefix_cache=data.draw(st.booleans(), label="prefix_cache"),
        max_draft_tokens=data.draw(st.sampled_from([0, 0, 1, 3]), label="max_draft_tokens"),
    )
    runner = ModelRunner(
        model,
        num_blocks=config.num_blocks,
        block_size=block_size,
        max_running=config.max_running,
        max_step_tokens=config.max_step_tokens,
        decode_buckets=data.draw(st.sampled_from([(), (1, 2, 4), (4, 8), (8,)]), label="decode_buckets"),
        draft_tokens=config.max_draft_tokens,
        seed=99,
    )
    # What padding reads and writes must not matter, and neither must what is left in the blocks that nobody has.
    for tensor in (tensor for layer in runner.cache.layers for tensor in layer.values()):
        tensor.fill_(torch.nan)
    runner.capture()
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
    expected = {}
    for request, params in sampling.items():
        seed = derive_seed(99, request) if params.seed is None else params.seed
        expected[request] = alone(model, prompts[request], params, seed)
    wrong = data.draw(st.integers(0, 4), label="first wrong draft")

    def drafts(request: int, known: int) -> list[int]:
        right = expected[request][known : known + config.max_draft_tokens]
        return [token if i < wrong else (token + 1) % 101 for i, token in enumerate(right)]

    outputs = drive(scheduler, runner, sampling, aborts, drafts if config.max_draft_tokens else None)
    for request, tokens in outputs.items():
        assert tokens == (expected[request][: len(tokens)] if request in aborts else expected[request])
    stats = scheduler.stats()
    assert stats.live_requests == stats.held_blocks == 0


def test_a_sampled_request_survives_retraction_unchanged(model: Model) -> None:
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
        self.outputs = np.array([samples for *_, samples in self.rows_], dtype=np.int32)
        self.sampling_rows = int(self.outputs.sum())
        self.tokens = int(self.num_tokens.sum())
        self.input_ids = np.array([i for _, _, ids, _ in self.rows_ for i in ids], dtype=np.int32)
        self.positions = np.array(
            [start + i for _, start, ids, _ in self.rows_ for i in range(len(ids))], dtype=np.int32
        )
        table = np.array(self.deltas, dtype=np.int32).reshape(-1, 3)
        self.table_slots, self.table_index, self.table_blocks = (np.ascontiguousarray(c) for c in table.T)
        for field in ("slots", "start", "num_tokens", "outputs", "input_ids", "positions", "table_slots"):
            getattr(self, field).flags.writeable = False  # as the scheduler's views may be


def execute(runner: ModelRunner, plan: Plan) -> list[int]:
    tokens: list[int] = runner.execute(cast(StepPlan, plan), dict.fromkeys(range(plan.rows), GREEDY)).tolist()
    return tokens


@pytest.fixture
def runner(model: Model) -> ModelRunner:
    return ModelRunner(model, num_blocks=32, block_size=4, max_running=4)


def greedy(model: Model, prompt: list[int], count: int) -> list[int]:
    return alone(model, prompt, dataclasses.replace(GREEDY, max_tokens=count), 0)


def test_minus_one_is_the_last_token_sampled_for_the_slot(model: Model, runner: ModelRunner) -> None:
    a, b = greedy(model, [5, 6, 7], 3), greedy(model, [8, 9], 3)
    first = Plan([(3, 0, [5, 6, 7], True), (1, 0, [8, 9], True)], [(3, 0, 17), (1, 0, 2), (3, 1, 4)])
    assert execute(runner, first) == [a[0], b[0]]
    # The rows change places, and another slot samples in between.
    assert execute(runner, Plan([(1, 2, [-1], True), (0, 0, [1, 1], True)], [(0, 0, 5)]))[0] == b[1]
    assert execute(runner, Plan([(1, 3, [-1], True), (3, 3, [-1], True)])) == [b[2], a[1]]
    assert execute(runner, Plan([(3, 4, [-1], True)])) == [a[2]]


def test_a_row_without_sample_leaves_the_last_token_of_its_slot(model: Model, runner: ModelRunner) -> None:
    assert execute(runner, Plan([(0, 0, [5, 6], False)], [(0, 0, 9)])) == []
    assert execute(runner, Plan([(0, 2, [7], True)])) == greedy(model, [5, 6, 7], 1)


def test_the_last_of_two_deltas_for_one_entry_counts(model: Model, runner: ModelRunner) -> None:
    execute(runner, Plan([(0, 0, [5, 6], False)], [(0, 0, 9), (0, 0, 11)]))
    # The same block through another slot sees what was written.
    assert execute(runner, Plan([(2, 2, [7], True)], [(2, 0, 11)])) == greedy(model, [5, 6, 7], 1)


def test_a_shared_block_is_read_by_two_requests(model: Model, runner: ModelRunner) -> None:
    prefix = [5, 6, 7, 8]
    execute(runner, Plan([(0, 0, prefix, False)], [(0, 0, 3)]))
    rows: list[Any] = [(0, 4, [1], True), (1, 4, [2, 3], True)]
    tokens = execute(runner, Plan(rows, [(0, 1, 4), (1, 0, 3), (1, 1, 5)]))
    assert tokens == greedy(model, [*prefix, 1], 1) + greedy(model, [*prefix, 2, 3], 1)


@pytest.mark.parametrize("buckets", [(), (4,)])
def test_a_step_changes_no_slot_of_the_cache_but_those_that_are_planned(model: Model, buckets: tuple[int, ...]) -> None:
    runner = ModelRunner(model, num_blocks=8, block_size=4, max_running=4, decode_buckets=buckets)
    runner.capture()
    execute(runner, Plan([(0, 0, [5, 6], False), (2, 0, [7, 8, 9], False)], [(0, 0, 6), (2, 0, 1)]))
    before = [tensor.clone() for layer in runner.cache.layers for tensor in layer.values()]
    execute(runner, Plan([(0, 2, [1], True), (2, 3, [2], False)]))
    planned, padding = {6 * 4 + 2, 1 * 4 + 3}, set(range(8 * 4, 9 * 4))  # the block behind the others
    for old, new in zip(before, (t for layer in runner.cache.layers for t in layer.values()), strict=True):
        changed = (old != new).flatten(2).any(-1).flatten().nonzero()[:, 0].tolist()
        assert planned <= set(changed) <= planned | padding


def test_a_request_whose_logits_are_not_finite_is_told_from_the_others(model: Model) -> None:
    runner = ModelRunner(model, num_blocks=8, block_size=4, max_running=4, decode_buckets=(4,))
    runner.capture()
    launch = Plan([(0, 0, [5, 6], True), (1, 0, [5, 6], True)], [(0, 0, 0), (1, 0, 1)])
    runner.launch(cast(StepPlan, launch), {}).wait()
    for layer in runner.cache.layers:
        layer["keys"][1, 0] = torch.nan
    decode = runner.launch(cast(StepPlan, Plan([(0, 2, [-1], True), (1, 2, [-1], True)])), {}).wait()
    assert decode.healthy.tolist() == [True, False]
    assert decode.tokens[0] == greedy(model, [5, 6], 2)[1]


def test_steps_may_be_waited_for_after_all_have_been_launched(model: Model, runner: ModelRunner) -> None:
    expected = greedy(model, [5, 6, 7], 6)
    plans = [Plan([(3, 0, [5, 6, 7], True)], [(3, 0, 17), (3, 1, 2), (3, 2, 30)])]
    plans += [Plan([(3, 3 + step, [-1], True)]) for step in range(5)]
    launched = [runner.launch(cast(StepPlan, plan), {}) for plan in plans]
    assert [int(step.wait().tokens[0]) for step in launched] == expected


def test_a_step_of_too_many_tokens_is_refused(model: Model) -> None:
    runner = ModelRunner(model, num_blocks=8, block_size=4, max_running=4, max_step_tokens=4)
    with pytest.raises(ValueError, match="max_step_tokens=4"):
        execute(runner, Plan([(0, 0, [1, 2, 3, 4, 5], True)], [(0, 0, 0), (0, 1, 1)]))


@pytest.mark.parametrize("buckets", [(0, 1), (2, 1), (2, 2)])
def test_sizes_that_do_not_increase_are_refused(model: Model, buckets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="decode_buckets="):
        ModelRunner(model, num_blocks=8, block_size=4, max_running=4, decode_buckets=buckets)


def test_default_sizes_hold_every_number_of_rows() -> None:
    assert default_buckets(1) == (1,)
    assert default_buckets(5) == (1, 2, 4, 8)
    assert default_buckets(30) == (1, 2, 4, 8, 16, 24, 32)
    assert default_buckets(1000)[-1] == 256


def test_a_plan_without_token_ids_is_refused(runner: ModelRunner) -> None:
    plan = Plan([(0, 0, [1, 2], True)], [(0, 0, 0)])
    plan.input_ids = np.empty(0, dtype=np.int32)
    with pytest.raises(ValueError, match="has no token ids"):
        execute(runner, plan)


def test_a_plan_past_the_context_is_refused(runner: ModelRunner) -> None:
    with pytest.raises(ValueError, match="position 64"):
        execute(runner, Plan([(0, 63, [1, 2], True)], [(0, 15, 0)]))


@pytest.mark.parametrize("field", ["num_blocks", "block_size", "max_running", "max_step_tokens"])
def test_a_limit_below_one_is_refused_by_name(model: Model, field: str) -> None:
    limits: dict[str, Any] = {"num_blocks": 4, "block_size": 4, "max_running": 4, "max_step_tokens": 4, field: 0}
    with pytest.raises(ValueError, match=f"{field}=0"):
        ModelRunner(model, **limits)


def test_bytes_per_block_is_what_a_block_takes() -> None:
    layout = LLAMA.cache_layout(CONFIG, torch.bfloat16)
    cache = KVCache(layout, 10, 4, torch.device("cpu"))
    taken = sum(tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in layer.values())
    assert layout.bytes_per_block(4) * 10 == taken == sum(p.numel() * p.element_size() for p in cache.pools)
