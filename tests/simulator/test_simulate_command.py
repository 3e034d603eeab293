"""`tokenspeed simulate` from the outside: what it prints, what it refuses and how it says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tokenspeed.cli import main
from tokenspeed.simulator import StudySettings
from tokenspeed.simulator.study.setup import place_model

DATA = Path(__file__).parent / "data"


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["simulate", *arguments])


def test_prints_a_table_and_names_the_files(tmp_path: Path) -> None:
    result = simulate("--sessions", "2", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    for text in (
        "swe-agent",
        "kimi-k2 on 4 x b200",
        "TTFT",
        "TPOT",
        "p50",
        "p90",
        "p99",
        "Prefix hit rate",
        "roofline",
    ):
        assert text in result.stdout
    assert (tmp_path / "out" / "report.html").exists()
    assert "report.html" in result.stdout


def test_prints_the_same_each_time() -> None:
    assert simulate("--sessions", "2").stdout == simulate("--sessions", "2").stdout


def verdict(trace: Path) -> str:
    result = CliRunner().invoke(main, ["verify", "--trace", str(trace)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_recorded_simulation_follows_the_specification(tmp_path: Path) -> None:
    """Tens of thousands of events, by one replica."""
    trace = tmp_path / "run.tstrace"
    result = simulate("--sessions", "2", "--record-trace", str(trace))
    assert result.exit_code == 0, result.output
    events = re.search(r"all ([0-9,]+) events", verdict(trace))
    assert events is not None and int(events[1].replace(",", "")) > 30_000
    assert simulate("--sessions", "2").stdout == result.stdout


def test_every_replica_records_a_trace_of_its_own(tmp_path: Path) -> None:
    azure = str(DATA / "azure_tiny.csv")
    result = simulate("--workload", azure, "--replicas", "2", "--record-trace", str(tmp_path / "run.tstrace"))
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run-0.tstrace", "run-1.tstrace"]
    for trace in tmp_path.iterdir():
        assert "Allowed: all" in verdict(trace)


def test_a_trace_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    result = simulate("--sessions", "1", "--record-trace", str(tmp_path / "none" / "run.tstrace"))
    assert result.exit_code == 2
    assert "run.tstrace cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--workload", "swe-agnet"],
            "workload is 'swe-agnet', which is neither a file nor a preset; presets: swe-agent",
        ),
        (["--gpu", "h900"], "gpu is 'h900'; known GPUs: h100, h200, b200"),
        (["--model", "gpt"], "model is 'gpt'; known models: smollm2-135m, llama-3-8b, deepseek-v3, kimi-k2"),
        (["--tp", "3"], "tp is 3; kimi-k2 has 64 attention heads"),
        (["--tp", "2"], "use --tp 4"),
        (["--weights", "int4"], "weights is 'int4'; use one of bf16, fp8, fp4"),
        (["--weights", "bf16"], "they need"),
        (["--kv-dtype", "fp4"], "kv_dtype is 'fp4'; use one of bf16, fp8"),
        (["--max-step-tokens", "10"], "max_step_tokens"),
        (["--workload", str(DATA / "mooncake_tiny.jsonl"), "--block-size", "100"], "block_size is 100"),
        (["--workload", str(DATA)], "is a folder"),
    ],
)
def test_bad_input_is_one_line_on_stderr(arguments: list[str], message: str) -> None:
    result = simulate(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert message in errors[0]


@pytest.mark.parametrize("out", ["taken/out", "."])
def test_an_output_folder_that_cannot_be_written_is_refused_before_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    def run_study(*_: object) -> None:
        raise AssertionError("the simulation ran")

    monkeypatch.setattr("tokenspeed.simulator.command.run_study", run_study)
    (tmp_path / "taken").write_text("")
    (tmp_path / "report.html").mkdir()
    result = simulate("--sessions", "1", "--out", str(tmp_path / out))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(errors) == 1 and errors[0].startswith("error: out is ") and "cannot be written" in errors[0]


def test_files_of_an_earlier_study_are_replaced(tmp_path: Path) -> None:
    assert simulate("--sessions", "1", "--out", str(tmp_path)).exit_code == 0
    first = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert simulate("--sessions", "2", "--out", str(tmp_path)).exit_code == 0
    second = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert first.keys() == second.keys() and all(second[name] > first[name] for name in ("requests.csv", "steps.csv"))


def test_options_reach_the_study(tmp_path: Path) -> None:
    arguments = "--model llama-3-8b --gpu h100 --tp 2 --replicas 3 --block-size 32 --overlap-depth 0 --kv-dtype fp8"
    result = simulate(
        *arguments.split(), "--concurrency", "3", "--think-cap", "1", "--sessions", "3", "--out", str(tmp_path)
    )
    assert result.exit_code == 0, result.output
    summary = (tmp_path / "summary.json").read_text()
    for text in (
        "6 x h100 (3 replicas, tp 2)",
        "fp8, 32.8 kB per token",
        "of 32 tokens",
        "capped at 1 s",
        "3; the first ones start",
        "0 (steps in flight",
    ):
        assert text in summary


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "weights", "kv"),
    [
        ("llama-3-8b", "h100", 1, "bf16", "bf16"),
        ("kimi-k2", "b200", 8, "fp8", "fp8"),
        ("kimi-k2", "b200", 4, "fp4", "fp8"),
        ("deepseek-v3", "h200", 8, "fp8", "fp8"),
    ],
)
def test_auto_takes_the_widest_weights_that_fit(model: str, gpu: str, tp: int, weights: str, kv: str) -> None:
    placed = place_model(StudySettings("swe-agent", model=model, gpu=gpu, tp=tp))
    assert (placed.weights.value, placed.kv.value) == (weights, kv)
