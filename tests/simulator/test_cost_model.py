"""The roofline obeys physics, agrees with hand calculation, and stays near published measurements."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.simulator.cost import roofline as cm
from tokenspeed.simulator.cost.roofline import CostModel, roofline
from tokenspeed.simulator.hardware.deployment import Deployment
from tokenspeed.simulator.hardware.gpus import GPUS, find_gpu
from tokenspeed.simulator.hardware.model_shapes import MODELS, find_model
from tokenspeed.simulator.hardware.precision import Precision

BF16, FP8, FP4 = Precision.BF16, Precision.FP8, Precision.FP4


def cost(model: str, gpu: str = "b200", tp: int = 1, weights: Precision = FP8, kv: Precision = FP8) -> CostModel:
    return roofline(Deployment(find_model(model), find_gpu(gpu), tp, weights, kv))


def decode_ns(model: CostModel, rows: int, context: int) -> int:
    return model.step_ns(rows, rows, rows, rows * context, rows * context)


def chunk_pairs(context: int, tokens: int) -> int:
    """Visible pairs of a chunk that ends at `context`."""
    return tokens * context - tokens * (tokens - 1) // 2


def prefill_ns(model: CostModel, context: int, tokens: int) -> int:
    return model.step_ns(1, tokens, 0, context, chunk_pairs(context, tokens))


def attention_part(model: CostModel) -> CostModel:
    """The same without matrix products, communication and overheads."""
    model = replace(
        model, dense_flops_per_token=0.0, dense_bytes=0.0, experts=0, head_flops_per_row=0.0, head_bytes=0.0
    )
    return replace(model, all_reduce_latency_s=0.0, all_reduce_s_per_token=0.0, overhead_s=0.0)


COSTS = [cost(name, gpu, tp, weights) for name in MODELS for gpu in GPUS for tp in (1,) for weights in (BF16, FP4)]
DEPLOYED = st.sampled_from(COSTS)


@given(DEPLOYED, st.integers(1, 512), st.integers(1, 200_000), st.integers(1, 100))
def test_more_rows_or_context_never_take_less_time(model: CostModel, rows: int, context: int, more: int) -> None:
    base = decode_ns(model, rows, context)
    assert 0 < base <= decode_ns(model, rows + more, context)
    assert base <= decode_ns(model, rows, context + more)


@given(DEPLOYED, st.integers(2, 8192), st.integers(0, 200_000), st.integers(1, 1000))
def test_longer_chunks_or_prefixes_never_take_less_time(model: CostModel, tokens: int, prefix: int, more: int) -> None:
    base = prefill_ns(model, prefix + tokens, tokens)
    assert base <= prefill_ns(model, prefix + tokens + more, tokens + more)
    assert base <= prefill_ns(model, prefix + tokens + more, tokens)


@given(DEPLOYED, st.integers(1, 64), st.integers(1, 50_000), st.integers(2, 4096), st.integers(0, 50_000))
def test_mixing_prefill_into_a_step_is_no_slower_than_two_steps(
    model: CostModel, rows: int, context: int, tokens: int, prefix: int
) -> None:
    mixed = model.step_ns(
        rows + 1,
        rows + tokens,
        rows,
        rows * context + prefix + tokens,
        rows * context + chunk_pairs(prefix + tokens, tokens),
    )
    apart = decode_ns(model, rows, context) + prefill_ns(model, prefix + tokens, tokens)
    assert max(decode_ns(model, rows, context), prefill_ns(model, prefix + tokens, tokens)) <= mixed * 1.001
    assert mixed <= apart


@given(DEPLOYED, st.integers(1, 8), st.integers(2, 1024), st.integers(0, 100_000), st.integers(0, 32))
def test_attention_of_equal_chunks_is_recovered_from_the_sums(
    model: CostModel, chunks: int, tokens: int, prefix: int, decode_rows: int
) -> None:
    """The plan gives sums over rows; for equal chunks they determine what each kind of row reads."""
    attention_only = attention_part(model)
    context = prefix + tokens
    decode_context = 777
    mixed = attention_only.step_ns(
        chunks + decode_rows,
        chunks * tokens + decode_rows,
        decode_rows,
        chunks * context + decode_rows * decode_context,
        chunks * chunk_pairs(context, tokens) + decode_rows * decode_context,
    )
    alone = chunks * prefill_ns(attention_only, context, tokens)
    decode = decode_ns(attention_only, decode_rows, decode_context) if decode_rows else 0
    assert isclose(mixed, alone + decode, rel_tol=1e-3, abs_tol=2 * chunks + 50)


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
