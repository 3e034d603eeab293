"""The public traces, where a folder with them is given: TOKENSPEED_TRACES=FOLDER."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest

from tokenspeed.simulator import StudySettings, load_workload, run_study
from tokenspeed.simulator.cost.protocol import Rows
from tokenspeed.simulator.cost.roofline import roofline
from tokenspeed.simulator.hardware.deployment import Deployment
from tokenspeed.simulator.hardware.gpus import find_gpu
from tokenspeed.simulator.hardware.model_shapes import find_model
from tokenspeed.simulator.hardware.precision import Precision
from tokenspeed.simulator.report import write_files

MODELS = {
    "deepseek-ai/DeepSeek-R1": "deepseek-v3",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-v3",
    "moonshotai/Kimi-K2.5": "kimi-k2",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3-8b",
}


def trace(name: str) -> Path:
    folder = os.environ.get("TOKENSPEED_TRACES")
    if not folder:
        pytest.skip("set TOKENSPEED_TRACES to the folder with the public traces")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"TOKENSPEED_TRACES has no {name}")
    return path


def test_mooncake_conversation() -> None:
    work = load_workload(StudySettings(str(trace("mooncake_conversation.jsonl.gz"))))
    assert len(work.calls) == 12_031
    assert sum(call.output_tokens for call in work.calls) == 4_122_048
    assert sum(call.prompt_tokens for call in work.calls) == 144_793_823


@pytest.mark.parametrize(("name", "requests"), [("azure_2023_code.csv.gz", 8_819), ("azure_2023_conv.csv.gz", 19_366)])
def test_azure(name: str, requests: int) -> None:
    assert len(load_workload(StudySettings(str(trace(name)))).calls) == requests


def test_claude_code_sessions() -> None:
    work = load_workload(StudySettings(str(trace("claude_code_500_sessions.tar.xz")), limit=50))
    assert (len(work.sessions), len(work.calls)) == (50, 3_382)
    assert max(d.delay_ns for call in work.calls for d in call.after) == 60_000_000_000
    seen: dict[int, set[int]] = {}
    hit = total = 0
    for call in work.calls:  # what an endless cache would find
        known = seen.setdefault(call.session, set())
        prompt = call.page_hashes[: call.prompt_tokens // 64].tolist()
        hit += sum(1 for page in prompt if page in known)
        total += len(prompt)
        known.update(call.page_hashes.tolist())
    assert hit / total > 0.95


@pytest.mark.slow
def test_whole_mooncake_trace_twice_with_the_same_bytes(tmp_path: Path) -> None:
    settings = StudySettings(str(trace("mooncake_conversation.jsonl.gz")), replicas=2)
    for folder in ("one", "two"):
        study = run_study(settings, load_workload(settings))
        assert study.metrics.finished == 12_031
        assert study.metrics.output_tokens == 4_122_048
        write_files(study, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 6
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert sum((tmp_path / "one" / name).stat().st_size for name in names) < 12_000_000


@pytest.mark.slow
def test_fifty_claude_code_sessions() -> None:
    settings = StudySettings(str(trace("claude_code_500_sessions.tar.xz")), tp=8, limit=50)
    work = load_workload(settings)
    study = run_study(settings, work)
    # The longest calls do not fit into the model's context; every other one finishes.
    assert (study.metrics.calls, study.metrics.finished, study.metrics.rejected) == (3_382, 3_110, 272)
    recording = study.recording
    ends = recording.finish_ns
    for call in work.calls:
        for dependency in call.after:
            if dependency.trigger.value == "completion":
                assert recording.arrival_ns[call.index] >= ends[dependency.call] + dependency.delay_ns
    assert (np.array([call.prompt_tokens for call in work.calls]) > recording.hit_tokens).all()


def test_the_roofline_is_near_published_measurements() -> None:
    """docs/simulator.md quotes these errors: time per output token of whole engines, up to 8 GPUs."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    with gzip.open(trace("aic_silicon_sample.csv.gz"), "rt") as lines:
        for row in csv.DictReader(lines):
            gpu, weights = row["system"].removesuffix("_sxm"), row["precision"].replace("int4", "fp4") or "bf16"
            if row["model_path"] not in MODELS or row["mode"] != "agg" or gpu not in ("h100", "h200", "b200"):
                continue
            if int(row["tp_size"]) > 8 or row["attention_dp_size"] not in ("", "1") or row["pp_size"] not in ("", "1"):
                continue
            kv = Precision.BF16 if weights == "bf16" else Precision.FP8
            model = find_model(MODELS[row["model_path"]])
            cost = roofline(Deployment(model, find_gpu(gpu), int(row["tp_size"]), Precision(weights), kv))
            batch, prompt, output = int(row["batch_size"]), int(row["isl"]), int(row["osl"])
            decode = cost.step_ns(Rows.of(decode=[prompt + output // 2] * batch))
            prefill, start = 0, 0
            while start < prompt:
                chunk = min(8192, prompt - start)
                prefill += cost.step_ns(Rows.of(prefill=[(start, chunk)]))
                start += chunk
            # In a full batch, one prompt is computed for each `output` tokens of every row.
            estimate_ms = (decode + batch * prefill / output) / 1e6
            errors[model.moe is not None].append(abs(estimate_ms / float(row["silicon_tpot_ms"]) - 1))
    dense, experts = errors[False], errors[True]
    assert (len(dense), len(experts)) == (244, 585)
    assert median(dense) < 0.08 and median(experts) < 0.16
    assert mean(dense) < 0.20 and mean(experts) < 0.22
