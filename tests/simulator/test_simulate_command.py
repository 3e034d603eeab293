"""`tokenspeed simulate` from the outside: what it prints, what it refuses and how it says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tokenspeed.cli import main
from tokenspeed.simulator import StudySettings
from tokenspeed.simulator.study.settings import place_model

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
    result = CliRunner().invoke(main, ["verify", "trace", str(trace)])
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
        (
            ["--model", "gpt"],
            "model is 'gpt'; known models: smollm2-135m, llama-3-8b, llama-3.1-8b",
        ),
        (["--tp", "3"], "tp is 3; kimi-k2 has 64 attention heads"),
        (["--tp", "2"], "use --tp 4"),
        (["--weights", "int4"], "weights is 'int4'; use one of bf16, fp8, fp4"),
        (["--weights", "bf16"], "they need"),
        (["--kv-dtype", "fp4"], "kv_dtype is 'fp4'; use one of bf16, fp8"),
        (["--max-step-tokens", "10"], "max_step_tokens"),
        (["--workload", str(DATA / "mooncake_tiny.jsonl"), "--block-size", "100"], "block_size is 100"),
        (["--workload", str(DATA.parent / "data_none")], "is neither a file nor a preset"),
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
    arguments = "--model llama-3.1-8b --gpu h100 --tp 2 --replicas 3 --block-size 32 --overlap-depth 0 --kv-dtype fp8"
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


def test_a_run_in_which_no_call_finishes_fails(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,90000000,5\n")
    result = simulate("--workload", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "error: no call finished: all were rejected" in result.stderr
    assert "First rejection: call 0" in result.stdout and (tmp_path / "out" / "requests.csv").exists()


def test_calls_longer_than_the_models_context_are_rejected_unless_said_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,8190,2\n2024-01-01 00:00:01,8191,2\n")
    arguments = ("--workload", str(path), "--model", "llama-3-8b", "--gpu", "h100", "--tp", "1")
    limited = simulate(*arguments)
    assert "1 of 2 calls finished, 1 rejected" in limited.stdout
    assert "8191 tokens and 2 of output exceed the model's context of 8192" in " ".join(limited.stdout.split())
    assert "2 of 2 calls finished" in simulate(*arguments, "--max-context", "none").stdout
    assert "1 of 2 calls finished" in simulate(*arguments, "--max-context", "8192").stdout
    assert (
        "max_context is 'some'; it must be a number of tokens" in simulate(*arguments, "--max-context", "some").stderr
    )


def test_more_usable_memory_is_a_larger_pool(tmp_path: Path) -> None:
    """The Kimi-K2 pool on four B200 is what 90 % of memory leaves beside the weights: 95 % are half as much again."""
    blocks = [place_model(StudySettings("swe-agent", usable_memory=share)).kv_blocks(64) for share in (0.9, 0.95)]
    assert blocks == [7_478, 11_481]
    assert "usable_memory is 1.5; it must be above 0 and at most 1" in simulate("--usable-memory", "1.5").stderr


def test_what_a_trace_leaves_open_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 10, "output_length": 2, "hash_ids": [], "priority": 3}\n')
    result = simulate("--workload", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert "warning: fields that are not used: 'priority' (1)" in result.stderr
    assert "fields that are not used" in (tmp_path / "out" / "report.html").read_text()


def test_outages_and_routers_reach_the_study(tmp_path: Path) -> None:
    arguments = "--sessions 4 --replicas 2 --router prefix --outage 1:5-20 --outage 0:30-40:drain"
    result = simulate(*arguments.split(), "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert settings["router"] == "prefix"
    assert [(o["replica"], o["kind"]) for o in settings["outages"]] == [(1, "failure"), (0, "drain")]


def test_the_command_in_the_summary_runs_the_same_study(tmp_path: Path) -> None:
    arguments = "--sessions 2 --replicas 2 --seed 3 --router least-load --outage 1:5-20 --usable-memory 0.92 --skip-bad"
    assert simulate(*arguments.split(), "--out", str(tmp_path / "one")).exit_code == 0
    command = json.loads((tmp_path / "one" / "summary.json").read_text())["provenance"]["Command"].split()
    assert command[:2] == ["tokenspeed", "simulate"]
    assert simulate(*command[2:], "--out", str(tmp_path / "two")).exit_code == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
