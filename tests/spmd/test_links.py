import csv
from pathlib import Path

import pytest

from tokenspeed.engine.spmd.links import Links, moved
from tokenspeed.simulator.cost import roofline
from tokenspeed.simulator.hardware.gpus import find_gpu

MEASURED = Path(__file__).parents[2] / "benchmarks" / "spmd" / "collectives_h200_nvlink.csv"


def test_the_constants_are_those_of_the_simulator() -> None:
    gpu, links = find_gpu("h100"), Links()
    assert links.bandwidth == gpu.nvlink_bandwidth * roofline.NVLINK_EFFICIENCY
    assert links.all_reduce_latency == roofline.ALL_REDUCE_LATENCY_S
    assert links.memory_bandwidth == gpu.memory_bandwidth * roofline.MEMORY_EFFICIENCY
    assert links.matmul_flops == gpu.bf16_flops * roofline.MATMUL_EFFICIENCY


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter"])
def test_what_was_measured_on_h200_is_within_a_factor_of_two(operation: str) -> None:
    links = Links()
    with MEASURED.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["operation"] == operation]
    assert len(rows) > 10
    for row in rows:
        ranks, nbytes = int(row["ranks"]), int(row["bytes of the whole tensor"])
        predicted = links.all_reduce(ranks, nbytes) if operation == "all_reduce" else links.shift(ranks, nbytes)
        assert 0.5 < predicted * 1e6 / float(row["us in a CUDA graph"]) < 2, row


def test_one_rank_sends_nothing() -> None:
    assert moved(1, 1e6) == Links().all_reduce(1, 1e6) == Links().shift(1, 1e6) == 0
