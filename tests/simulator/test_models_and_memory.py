"""Model shapes agree with what is published, and memory planning says what fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenspeed.simulator.errors import ConfigurationError
from tokenspeed.simulator.hardware.deployment import USABLE_MEMORY, Deployment
from tokenspeed.simulator.hardware.gpus import GPUS, find_gpu
from tokenspeed.simulator.hardware.model_shapes import MODELS, GroupedQueryAttention, find_model
from tokenspeed.simulator.hardware.precision import Precision

BF16, FP8, FP4 = Precision.BF16, Precision.FP8, Precision.FP4


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        # Model cards: 134.5M; 8.03B; 671B with 37B active; "1 trillion" with 32B active (checkpoint: 1,026B).
        ("smollm2-135m", 134.5e6, 134.5e6),
        ("llama-3-8b", 8.03e9, 8.03e9),
        ("deepseek-v3", 671e9, 37e9),
        ("kimi-k2", 1026e9, 32.5e9),
    ],
)
def test_parameters_are_the_published_ones(name: str, total: float, active: float) -> None:
    model = find_model(name)
    assert model.parameters == pytest.approx(total, rel=0.005)
    assert model.active_parameters == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("deepseek-v3", 61 * 576),
        ("kimi-k2", 61 * 576),
        ("llama-3-8b", 32 * 2 * 8 * 128),
        ("smollm2-135m", 30 * 2 * 3 * 64),
    ],
)
def test_kv_values_per_token(name: str, values: int) -> None:
    assert find_model(name).kv_values_per_token() == values


def test_mla_kv_is_replicated_and_grouped_query_kv_is_split() -> None:
    gpu = find_gpu("b200")
    mla = [Deployment(find_model("kimi-k2"), gpu, tp, FP4, FP8).kv_bytes_per_token for tp in (1, 4, 8)]
    assert mla == [35_136] * 3
    gqa = [Deployment(find_model("llama-3-8b"), gpu, tp, BF16, BF16).kv_bytes_per_token for tp in (1, 2, 8)]
    assert gqa == [131_072, 65_536, 16_384]


def test_kv_heads_are_not_split_below_one() -> None:
    model = replace(find_model("llama-3-8b"), attention=GroupedQueryAttention(heads=32, kv_heads=2, head_dim=128))
    placed = Deployment(model, find_gpu("h100"), 8, BF16, BF16)
    assert placed.kv_bytes_per_token == 32 * 2 * 128 * 2


def test_kv_blocks_fill_what_the_weights_leave() -> None:
    placed = Deployment(find_model("llama-3-8b"), find_gpu("h100"), 1, BF16, BF16)
    blocks = placed.kv_blocks(64)
    free = 80e9 * USABLE_MEMORY - 2 * 8_029_995_008
    assert blocks * 64 * 131_072 <= free < (blocks + 1) * 64 * 131_072
    assert placed.kv_blocks(16) // 4 in (blocks, blocks + 1)


def test_fp8_kv_doubles_the_pool() -> None:
    model, gpu = find_model("kimi-k2"), find_gpu("b200")
    wide, narrow = (Deployment(model, gpu, 8, FP4, kv).kv_blocks(64) for kv in (BF16, FP8))
    assert narrow in (2 * wide, 2 * wide + 1)


def test_weights_that_do_not_fit_name_the_gpus_needed() -> None:
    with pytest.raises(ConfigurationError, match=r"tp is 2: kimi-k2 in fp4 has 5.. GB of weights.* use --tp 4$"):
        Deployment(find_model("kimi-k2"), find_gpu("b200"), 2, FP4, FP8).kv_blocks(64)
    with pytest.raises(ConfigurationError, match=r"use --tp 8 or smaller --weights$"):
        Deployment(find_model("kimi-k2"), find_gpu("b200"), 4, FP8, FP8).kv_blocks(64)


def test_weights_that_fit_nowhere_say_so() -> None:
    with pytest.raises(ConfigurationError, match=r"they need 20 GPUs, more than the 8 .* or smaller --weights"):
        Deployment(find_model("deepseek-v3"), find_gpu("h100"), 8, BF16, BF16).kv_blocks(64)


@pytest.mark.parametrize("tp", [0, 3, 16])
def test_tp_must_divide_the_heads_and_fit_a_domain(tp: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"tp is {tp}; llama-3-8b has 32 attention heads.* one of 1, 2, 4, 8"):
        Deployment(find_model("llama-3-8b"), find_gpu("h100"), tp, BF16, BF16)


def test_fp4_kv_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="kv_dtype is 'fp4'; use one of bf16, fp8"):
        Deployment(find_model("llama-3-8b"), find_gpu("h100"), 1, BF16, FP4)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=f"gpu is 'tpu'; known GPUs: {', '.join(GPUS)}"):
        find_gpu("tpu")
    with pytest.raises(ConfigurationError, match=f"model is 'gpt'; known models: {', '.join(MODELS)}"):
        find_model("gpt")
    with pytest.raises(ConfigurationError, match="weights is 'int3'; use one of bf16, fp8, fp4"):
        Precision.parse("int3", "weights")


def test_only_blackwell_computes_in_fp4() -> None:
    assert find_gpu("h100").matmul_flops(FP4) == find_gpu("h100").bf16_flops
    assert find_gpu("b200").matmul_flops(FP4) == 2 * find_gpu("b200").matmul_flops(FP8)
