"""Every committed result of a benchmark says what it was measured on, with which command, commit and specification."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNRECORDED = {
    *(f"benchmarks/{name}/results/latest.json" for name in ("binary-mutants", "guards", "mutants")),
    *(f"benchmarks/{name}/results/latest.json" for name in ("scheduler", "simulator", "trace", "verify")),
    *(f"benchmarks/lockstep/results/{name}.json" for name in ("latest", "thorough", "through_python")),
    *(str(p.relative_to(ROOT)) for p in (ROOT / "benchmarks/kernels/results").glob("*_nvidia_h100.json")),
    *(
        f"benchmarks/engine/results/{name}_nvidia_h200.json"
        for name in ("deepseek-v2-lite", "llama-3-8b", "transformers")
    ),
    "benchmarks/kernels/results/paged_decode_nvidia_h200.json",
    "benchmarks/policies/results/floor/study.json",
    "benchmarks/simulator/results/speed.json",
}
"""Measured before results were recorded this way; what is measured again leaves this list."""


@pytest.fixture(scope="module")
def record() -> ModuleType:
    """The module that writes results."""
    found = importlib.util.spec_from_file_location("record", ROOT / "benchmarks" / "record.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def missing(record: ModuleType, path: Path) -> list[str]:
    """The fields of the record that a result lacks or leaves empty."""
    document = json.loads(path.read_text())
    return [field for field in record.FIELDS if not (isinstance(document, dict) and document.get(field))]


def test_results_say_what_they_were_measured_on(record: ModuleType) -> None:
    results = {str(p.relative_to(ROOT)): p for p in (ROOT / "benchmarks").glob("**/results/**/*.json")}
    assert results
    lacking = {name: found for name, path in results.items() if (found := missing(record, path))}
    assert {name: fields for name, fields in lacking.items() if name not in UNRECORDED} == {}


def test_what_is_recorded_is_not_excused(record: ModuleType) -> None:
    excused = [name for name in UNRECORDED if (ROOT / name).exists() and not missing(record, ROOT / name)]
    assert excused == [], "measured again: take them off UNRECORDED"


def test_a_result_is_written_with_its_record(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSPEED_COMMIT", "abc1234")
    record.write(tmp_path / "results" / "latest.json", {"steps_per_s": 3.5}, command="make bench-x")
    assert missing(record, tmp_path / "results" / "latest.json") == []
    document = json.loads((tmp_path / "results" / "latest.json").read_text())
    assert (document["commit"], document["command"], document["steps_per_s"]) == ("abc1234", "make bench-x", 3.5)


def test_without_a_commit_nothing_is_written(
    record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKENSPEED_COMMIT", raising=False)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit, match="set TOKENSPEED_COMMIT"):
        record.write(tmp_path / "latest.json", {"figure": 1})
    assert not (tmp_path / "latest.json").exists()


def test_figures_cannot_hide_the_record(record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSPEED_COMMIT", "abc1234")
    with pytest.raises(ValueError, match="hardware"):
        record.write(tmp_path / "latest.json", {"hardware": "mine"})


def test_the_command_names_no_folder_of_the_machine(record: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks/ranks/__main__.py"), "--out", "/somewhere/out/one.json"])
    assert record._own_command() == "python benchmarks/ranks --out one.json"
