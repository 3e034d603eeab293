import json
from pathlib import Path

import pytest

from tokenspeed.engine.spmd.commands.plan_command import folded, run_plan
from tokenspeed.engine.spmd.compiler import compile_model
from tokenspeed.engine.spmd.families import PUBLISHED, declare
from tokenspeed.engine.spmd.mesh import Mesh, Parallelism


def test_the_plan_of_a_published_model_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan("qwen3-30b-a3b", Parallelism(2, 2, ep=4), json_output=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["calls"][0]["call"] == "embed"
    assert {call["call"] for call in shown["calls"]} >= {"all-gather", "run", "select"}
    assert len(shown["ranks"]) == 4
    assert shown["cost"]["weight_bytes"] == max(rank["weight_bytes"] for rank in shown["ranks"])
    # A quarter of 30.5e9 weights in two bytes, and what attention and embedding hold twice.
    assert 15e9 < shown["cost"]["weight_bytes"] < 18e9
    assert shown["others"]


def test_the_plan_of_a_directory_names_every_collective_and_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**PUBLISHED["llama-3-8b"], "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert run_plan(str(tmp_path), Parallelism(2), tokens=64) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "model.layers.0.self_attn owes a sum over {0,1}" in printed
    assert "all-gather of columns {0,1}" in printed
    assert "ranks 0 to 1, each:" in printed
    assert "equal to one device: validated" in printed


@pytest.mark.parametrize(
    ("model", "parallelism", "message"),
    [
        ("no-such-model", Parallelism(), "none of smollm2-135m"),
        ("smollm2-135m", Parallelism(2, 2, ep=3), "--ep is 3"),
        ("smollm2-135m", Parallelism(8), r"--tp is 8, but 9 query heads share 3 key and value heads; use 1 to 3, 6, 9"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    model: str, parallelism: Parallelism, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_plan(model, parallelism) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"model_type": "mamba"}', "model_type 'mamba' has no declaration; known: deepseek_v2"),
        ('{"model_type": "llama"}', "config.json of a 'llama' lacks 'num_hidden_layers'"),
    ],
)
def test_a_config_that_is_not_understood_is_refused_by_name(
    config: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    assert run_plan(str(tmp_path), Parallelism()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llama-3-8b", "kimi-k2", "deepseek-v3"])
def test_layers_that_are_alike_are_shown_once(name: str) -> None:
    plan = compile_model(declare(PUBLISHED[name]), Mesh.of(Parallelism(2, 2, ep=4)))
    shown = folded(plan.calls)
    assert sum(times for _, times in shown) == len(plan.calls)
    assert len(shown) < 60
