"""`tokenspeed profile` writes tables that the simulator takes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.cli import main
from tokenspeed.engine.profiling.steps import grid
from tokenspeed.simulator.cost.table import read_table
from tokenspeed.simulator.hardware.deployment import Deployment
from tokenspeed.simulator.hardware.gpus import GPUS
from tokenspeed.simulator.hardware.model_shapes import MODELS
from tokenspeed.simulator.hardware.precision import Precision

pytestmark = pytest.mark.serve

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


@given(rows=st.integers(1, 300), tokens=st.integers(2, 10_000), context=st.integers(2, 200_000))
@settings(max_examples=40, deadline=None)
def test_the_grid_has_what_a_table_needs(rows: int, tokens: int, context: int) -> None:
    points = list(grid(rows, tokens, context))
    assert len(points) == len(set(points))
    decode = {(point.rows, point.context) for point in points if point.tokens == 1}
    shortest = min(context for _, context in decode)
    assert {(number, shortest) for number, _ in decode} <= decode
    assert max(number for number, _ in decode) == rows
    assert max(length for _, length in decode) == context
    chunks = {point.tokens for point in points if point.rows == 1 and point.tokens > 1}
    assert max(chunks) == min(tokens, context)
    assert all(point.context >= point.tokens for point in points)
    assert {(chunk, chunk) for chunk in chunks} <= {(point.tokens, point.context) for point in points}


@pytest.mark.parametrize("limits", [(0, 8, 8), (1, 1, 8), (1, 8, 1)])
def test_a_grid_without_points_is_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="give at least 1, 2 and 2"):
        list(grid(*limits))


def test_a_table_of_the_cpu_is_read_by_the_simulator(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    table = tmp_path / "steps.csv"
    gpu, shape = next(iter(GPUS.values())), next(iter(MODELS.values()))
    options = ["--device-name", gpu.name, "--model-name", shape.name, "--out", str(table), "--block-size", "16"]
    limits = ["--max-running", "2", "--max-step-tokens", "32"]
    done = CliRunner().invoke(main, ["profile", "--model", str(tmp_path), "--load-format", "dummy", *options, *limits])
    assert done.exit_code == 0, done.output
    read = read_table(table, Deployment(shape, gpu, 1, Precision.BF16, Precision.BF16))
    assert read.points == len(list(grid(2, 32, 256)))
    assert read.describe()["longest_context"] == 256
