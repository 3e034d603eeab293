"""The roofline obeys physics, agrees with hand calculation, and stays near published measurements."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.simulator.cost import roofline as cm
from tokenspeed.simulator.cost.protocol import Rows
from tokenspeed.simulator.cost.roofline import Roofline, roofline
from tokenspeed.simulator.hardware.deployment import Deployment
from tokenspeed.simulator.hardware.gpus import GPUS, find_gpu
from tokenspeed.simulator.hardware.model_shapes import MODELS, find_model
from tokenspeed.simulator.hardware.precision import Precision

BF16, FP8, FP4 = Precision.BF16, Precision.FP8, Precision.FP4


def cost(model: str, gpu: str = "b200", tp: int = 1, weights: Precision = FP8, kv: Precision = FP8) -> Roofline:
    return roofline(Deployment(find_model(model), find_gpu(gpu), tp, weights, kv))


def decode_ns(model: Roofline, rows: int, context: int) -> int:
    return model.step_ns(Rows.of(decode=[context] * rows))


def chunk_pairs(context: int, tokens: int) -> int:
    """Visible pairs of a chunk that ends at `context`."""
    return tokens * context - tokens * (tokens - 1) // 2


def prefill_ns(model: Roofline, context: int, tokens: int) -> int:
    return model.step_ns(Rows.of(prefill=[(context - tokens, tokens)]))


def attention_part(model: Roofline) -> Roofline:
    """The same without matrix products, communication and overheads."""
    model = replace(
        model, dense_flops_per_token=0.0, dense_bytes=0.0, experts=0, head_flops_per_row=0.0, head_bytes=0.0
    )
    return replace(model, all_reduce_latency_s=0.0, all_reduce_s_per_token=0.0, overhead_s=0.0)


COSTS = [cost(name, gpu, tp, weights) for name in MODELS for gpu in GPUS for tp in (1,) for weights in (BF16, FP4)]
DEPLOYED = st.sampled_from(COSTS)


@given(DEPLOYED, st.integers(1, 512), st.integers(1, 200_000), st.integers(1, 100))
def test_more_rows_or_context_never_take_less_time(model: Roofline, rows: int, context: int, more: int) -> None:
    base = decode_ns(model, rows, context)
    assert 0 < base <= decode_ns(model, rows + more, context)
    assert base <= decode_ns(model, rows, context + more)


@given(DEPLOYED, st.integers(2, 8192), st.integers(0, 200_000), st.integers(1, 1000))
def test_longer_chunks_or_prefixes_never_take_less_time(model: Roofline, tokens: int, prefix: int, more: int) -> None:
    base = prefill_ns(model, prefix + tokens, tokens)
    assert base <= prefill_ns(model, prefix + tokens + more, tokens + more)
    assert base <= prefill_ns(model, prefix + tokens + more, tokens)


@given(DEPLOYED, st.integers(1, 64), st.integers(1, 50_000), st.integers(2, 4096), st.integers(0, 50_000))
def test_mixing_prefill_into_a_step_is_no_slower_than_two_steps(
    model: Roofline, rows: int, context: int, tokens: int, prefix: int
) -> None:
    mixed = model.step_ns(Rows.of(decode=[context] * rows, prefill=[(prefix, tokens)]))
    apart = decode_ns(model, rows, context) + prefill_ns(model, prefix + tokens, tokens)
    assert max(decode_ns(model, rows, context), prefill_ns(model, prefix + tokens, tokens)) <= mixed * 1.001
    assert mixed <= apart


CHUNKS = st.lists(st.tuples(st.integers(0, 200_000), st.integers(2, 4096)), max_size=4)
CONTEXTS = st.lists(st.integers(1, 200_000), max_size=8)


@given(DEPLOYED, CONTEXTS, CHUNKS)
def test_attention_costs_what_its_rows_cost(model: Roofline, decode: list[int], chunks: list[tuple[int, int]]) -> None:
    """Rows of different lengths are priced one by one, not by their mean: sums would be up to 15 % off."""
    attention_only = replace(attention_part(model), kv_bytes_per_token=0.0)  # compute adds up over rows
    alone = sum(attention_only.step_ns(Rows.of(prefill=[chunk])) for chunk in chunks)
    alone += sum(attention_only.step_ns(Rows.of(decode=[context])) for context in decode)
    mixed = attention_only.step_ns(Rows.of(decode=decode, prefill=chunks))
    assert isclose(mixed, alone, rel_tol=1e-6, abs_tol=len(chunks) + len(decode) + 1)


@given(DEPLOYED, CONTEXTS, CHUNKS)
def test_parts_add_up_to_the_step(model: Roofline, decode: list[int], chunks: list[tuple[int, int]]) -> None:
    step = Rows.of(decode=decode, prefill=chunks)
    assert sum(model.step_parts(step).values()) == pytest.approx(model.step_ns(step), abs=2)


def test_a_short_chunk_behind_a_long_prefix_is_not_a_mean_chunk() -> None:
    """192 tokens behind 100k and 8,000 at a start: the mean of both, which sums allow, is cheaper than they are."""
    model = cost("kimi-k2", tp=4, weights=FP4)
    apart, mean = Rows.of(prefill=[(100_000, 192), (0, 8_000)]), Rows.of(prefill=[(50_000, 4_096)] * 2)
    assert apart.tokens == mean.tokens and apart.context_tokens == mean.context_tokens
    assert model.step_ns(apart) != model.step_ns(mean)


def test_dense_decode_by_hand() -> None:
    """Llama 3 8B in bf16 on one H100, 1 row at 1,000 tokens: memory-bound everywhere."""
    model = find_model("llama-3-8b")
    bandwidth = 3.35e12 * cm.MEMORY_EFFICIENCY
    weights = 2 * model.always_parameters / bandwidth
    head = 2 * 128_256 * 4096 / bandwidth
    kv = 1000 * 131_072 / bandwidth
    overhead = cm.STEP_OVERHEAD_S + 32 * cm.LAYER_OVERHEAD_S
    expected = (weights + head + kv + overhead) * 1e9
    assert decode_ns(cost("llama-3-8b", "h100", 1, BF16, BF16), 1, 1000) == pytest.approx(expected, abs=2)


def test_dense_prefill_by_hand() -> None:
    """Llama 3 8B in bf16 on one H100, a chunk of 4,096 tokens without a prefix: compute-bound but for the head."""
    model = find_model("llama-3-8b")
    matmul = 2 * 4096 * model.always_parameters / (989.5e12 * cm.MATMUL_EFFICIENCY)
    pairs = 4096 * 4097 // 2
    attention = pairs * 4 * 32 * 128 * 32 / (989.5e12 * cm.ATTENTION_EFFICIENCY)
    head = 2 * 128_256 * 4096 / (3.35e12 * cm.MEMORY_EFFICIENCY)
    expected = (matmul + attention + head + cm.STEP_OVERHEAD_S + 32 * cm.LAYER_OVERHEAD_S) * 1e9
    assert prefill_ns(cost("llama-3-8b", "h100", 1, BF16, BF16), 4096, 4096) == pytest.approx(expected, rel=1e-6)


def test_latent_prefill_takes_the_cheaper_of_two_ways() -> None:
    """MLA: with few new tokens behind a long prefix it stays in latent space, with many it expands keys and values."""
    model = cost("kimi-k2", "b200", 8)
    attention_only = attention_part(model)
    per_second = 2.25e15 * cm.ATTENTION_EFFICIENCY
    heads_layers = 64 * 61 / 8
    for context, tokens, latent in ((100_000, 50, True), (50_000, 8_000, False)):
        pairs = chunk_pairs(context, tokens)
        absorbed = pairs * 2 * (576 + 512) * heads_layers
        expanded = (pairs * 2 * (192 + 128) + context * 2 * 512 * (128 + 128)) * heads_layers
        assert (absorbed < expanded) == latent
        expected = min(absorbed, expanded) / per_second * 1e9
        assert prefill_ns(attention_only, context, tokens) == pytest.approx(expected, rel=1e-3)


def test_tensor_parallel_ranks_share_the_work_and_pay_for_all_reduce() -> None:
    one, eight = cost("llama-3-8b", "h100", 1, BF16, BF16), cost("llama-3-8b", "h100", 8, BF16, BF16)
    assert eight.dense_bytes == one.dense_bytes / 8
    assert eight.decode_flops_per_pair == one.decode_flops_per_pair / 8
    assert one.all_reduce_latency_s == one.all_reduce_s_per_token == 0
    assert eight.all_reduce_latency_s == 2 * 32 * cm.ALL_REDUCE_LATENCY_S
    ring = 2 * 7 / 8 * 4096 * 2 / (450e9 * cm.NVLINK_EFFICIENCY)
    assert eight.all_reduce_s_per_token == pytest.approx(2 * 32 * ring)


def test_few_tokens_touch_few_experts_and_many_touch_all() -> None:
    model = cost("deepseek-v3", "b200", 8)
    only_experts = replace(attention_part(model), experts=model.experts, decode_flops_per_pair=0.0)
    only_experts = replace(only_experts, expert_flops_per_token=0.0, kv_bytes_per_token=0.0)
    per_expert_ns = model.expert_bytes / model.expert_bandwidth * 1e9
    one_token, many = decode_ns(only_experts, 1, 1), decode_ns(only_experts, 4000, 1)
    assert one_token == pytest.approx(8 * per_expert_ns, rel=1e-3)
    assert many == pytest.approx(256 * per_expert_ns, rel=1e-3)
    expected_for_32 = 256 * (1 - (1 - 8 / 256) ** 32)
    assert decode_ns(only_experts, 32, 1) == pytest.approx(expected_for_32 * per_expert_ns, rel=1e-3)


def test_narrow_weights_speed_up_decode() -> None:
    times = [decode_ns(cost("kimi-k2", "b200", 8, weights), 8, 50_000) for weights in (BF16, FP8, FP4)]
    assert times[0] > times[1] > times[2]
