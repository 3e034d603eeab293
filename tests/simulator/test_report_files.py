"""The files of a study: complete, self-contained, bounded, and the same bytes each time."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from tokenspeed import __version__
from tokenspeed.simulator import StudySettings, load_workload, run_study
from tokenspeed.simulator.report import write_files
from tokenspeed.simulator.report.figures import figures
from tokenspeed.simulator.report.parameters import parameters
from tokenspeed.simulator.report.perfetto import MOST_STEPS, perfetto_trace
from tokenspeed.simulator.report.rows import duration, milliseconds, number, percent
from tokenspeed.simulator.study.metrics import DEFINITIONS
from tokenspeed.simulator.study.study import Study

DATA = Path(__file__).parent / "data"
NAMES = ["report.html", "requests.csv", "sessions.csv", "steps.csv", "summary.json", "trace.json.gz"]


def study(workload: str = "swe-agent", **settings: int) -> Study:
    chosen = StudySettings(workload, **settings)  # type: ignore[arg-type]
    return run_study(chosen, load_workload(chosen))


@pytest.fixture(scope="module")
def agents() -> Study:
    return study(limit=6, replicas=2)


@pytest.fixture(scope="module")
def folder(agents: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "deep" / "out"
    write_files(agents, out)
    return out


def test_all_files_are_there(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == NAMES


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_files(study(limit=6, replicas=2), tmp_path)
    assert [name for name in NAMES if (tmp_path / name).read_bytes() != (folder / name).read_bytes()] == []


def test_another_seed_gives_another_study(agents: Study) -> None:
    assert study(limit=6, replicas=2, seed=1).metrics != agents.metrics


def test_no_file_names_this_machine(folder: Path) -> None:
    for name in NAMES:
        content = (folder / name).read_bytes()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert str(folder).encode() not in content
        assert str(DATA.parent).encode() not in content


def test_requests_csv(agents: Study, folder: Path) -> None:
    rows = list(csv.DictReader((folder / "requests.csv").open(newline="")))
    assert len(rows) == len(agents.workload.calls)
    for row, call in zip(rows, agents.workload.calls, strict=True):
        assert int(row["prompt_tokens"]) == call.prompt_tokens
        assert int(row["output_tokens"]) == call.output_tokens
        assert row["status"] == "finished" and row["reject_reason"] == ""
        ttft = float(row["first_token_ms"]) - float(row["arrival_ms"])
        assert float(row["ttft_ms"]) == pytest.approx(ttft, abs=1e-3)
        tpot = (float(row["finish_ms"]) - float(row["first_token_ms"])) / (call.output_tokens - 1)
        assert float(row["tpot_ms"]) == pytest.approx(tpot, abs=1e-3)


def test_rejected_calls_are_in_the_files(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,90000000,5\n2024-01-01 00:00:01,50,1\n"
    )
    result = study(str(path), tp=4)
    write_files(result, tmp_path)
    rows = list(csv.DictReader((tmp_path / "requests.csv").open(newline="")))
    assert [row["status"] for row in rows] == ["rejected", "finished"]
    assert "90000000" in rows[0]["reject_reason"] and rows[0]["finish_ms"] == ""
    assert rows[1]["tpot_ms"] == ""  # one output token
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"]["rejected"] == 1 and "90000000" in summary["rejections"][0]


def test_steps_csv_is_bounded_and_conserves_tokens(agents: Study, folder: Path) -> None:
    rows = list(csv.DictReader((folder / "steps.csv").open(newline="")))
    assert len(rows) <= 2000
    seconds = [float(row["to_s"]) - float(row["from_s"]) for row in rows]
    output = sum(float(row["output_tokens_per_s"]) * s for row, s in zip(rows, seconds, strict=True))
    assert output == pytest.approx(agents.metrics.output_tokens, rel=1e-3)
    assert sum(float(row["steps"]) for row in rows) == pytest.approx(agents.metrics.steps, rel=1e-3)
    assert {row["replica"] for row in rows} == {"0", "1"}


def test_summary_tells_everything(agents: Study, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["finished"] == len(agents.workload.calls)
    assert summary["definitions"] == DEFINITIONS
    assert summary["parameters"]["KV cache"].startswith("fp8")
    assert summary["assumptions"]["Think and tool times"] == "generated, capped at 60 s"
    assert re.fullmatch(r"[0-9a-f]{64}", summary["provenance"]["Scheduler specification"])


def test_report_is_self_contained(agents: Study, folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "plotly.js v" in page  # the library is inside
    outside = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*[\"']?([^\"' >]+)", page)
    assert outside == []
    assert page.count("</script>") == 2 and "</extra>" not in page  # nothing ends a script early
    for text in ("roofline", *parameters(agents), *DEFINITIONS):
        assert text.replace("&", "&amp;") in page
    for title, _, _ in figures(agents):
        assert f"<h3>{title}</h3>" in page


def test_report_escapes_names(tmp_path: Path) -> None:
    nasty = tmp_path / "<script>alert(1)<.csv"
    nasty.write_bytes((DATA / "azure_tiny.csv").read_bytes())
    write_files(study(str(nasty)), tmp_path / "out")
    assert "<script>alert" not in (tmp_path / "out" / "report.html").read_text()


def test_figures_are_small_and_finite(agents: Study) -> None:
    text = json.dumps([figure for _, _, figure in figures(agents)], allow_nan=False)
    assert len(text) < 200_000


@pytest.mark.parametrize("name", ["mooncake_tiny.jsonl", "azure_tiny.csv", "claude_code_tiny_a.json"])
def test_tiny_traces_make_whole_reports(name: str, tmp_path: Path) -> None:
    write_files(study(str(DATA / name)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES


def test_perfetto_trace(agents: Study, folder: Path) -> None:
    compressed = (folder / "trace.json.gz").read_bytes()
    assert compressed[4:8] == bytes(4)  # no time stamp
    events = json.loads(gzip.decompress(compressed))["traceEvents"]
    kinds = {kind: [e for e in events if e["ph"] == kind] for kind in "MCX"}
    assert sum(len(found) for found in kinds.values()) == len(events)
    assert {e["name"] for e in kinds["C"]} == {"Calls", "KV blocks (%)", "Tokens per second"}
    names = {e["args"]["name"] for e in kinds["M"]}
    assert {"Replica 0", "Replica 1", "swe-agent 0"} <= names
    decode = [e for e in kinds["X"] if e["name"] == "decode" and e["cat"] == "decode"]
    assert len(decode) == len(agents.workload.calls)


@pytest.mark.parametrize("name", ["mooncake_tiny.jsonl", "claude_code_tiny_a.json", "swe-agent"])
def test_nothing_overlaps_on_a_track(name: str) -> None:
    """Viewers would draw it wrongly."""
    path = DATA / name
    events = json.loads(gzip.decompress(perfetto_trace(study(str(path) if path.exists() else name, limit=3))))
    ends: dict[tuple[int, int], float] = {}
    for event in sorted((e for e in events["traceEvents"] if e["ph"] == "X"), key=lambda e: e["ts"]):
        track = (event["pid"], event["tid"])
        assert event["ts"] >= ends.get(track, 0) - 1e-3
        ends[track] = event["ts"] + event["dur"]
    assert len(ends) > 1


def test_perfetto_trace_is_bounded() -> None:
    long = study(limit=40, concurrency=2)
    assert long.metrics.steps > 2 * MOST_STEPS
    events = json.loads(gzip.decompress(perfetto_trace(long)))["traceEvents"]
    assert sum(e["pid"] == 1 and e["ph"] == "X" for e in events) == MOST_STEPS


def test_numbers_are_readable() -> None:
    nan = float("nan")
    assert [milliseconds(v) for v in (0.01234, 7.126, 1234.4, nan)] == ["0.0123", "7.13", "1,234", "-"]
    assert [number(v) for v in (0.00001, 3.14159, 42.42, 12345.6, nan)] == ["0", "3.14", "42.4", "12,346", "-"]
    assert [percent(v) for v in (0.9316, nan)] == ["93.2 %", "-"]
    assert [duration(v) for v in (76.3, 52_888.0, nan)] == [("76.3", "ms"), ("52.9", "s"), ("-", "ms")]


def test_sessions_csv_and_replicas_add_up(agents: Study, folder: Path) -> None:
    rows = list(csv.DictReader((folder / "sessions.csv").open(newline="")))
    assert [row["name"] for row in rows] == [session.name for session in agents.workload.sessions]
    replicas = json.loads((folder / "summary.json").read_text())["replicas"]
    for column in ("calls", "finished", "output_tokens"):
        total = sum(int(row[column]) for row in rows)
        assert total == sum(replica[column] for replica in replicas)
    assert sum(replica["steps"] for replica in replicas) == agents.metrics.steps
    assert sum(replica["sessions"] for replica in replicas) == 6


def test_sessions_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes((DATA / "claude_code_tiny_a.json").read_bytes())
    write_files(study(str(tmp_path)), tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "requests.csv").open(newline="")))
    assert {row["session_name"] for row in rows} == {"tiny_a"} and {row["session"] for row in rows} == {"0", "1"}


def test_the_summary_has_values_and_what_ran(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["replicas"] == 2 and summary["settings"]["limit"] == 6
    assert summary["deployment"]["num_blocks"] == 7478 and summary["deployment"]["weights"] == "fp4"
    assert summary["cost"]["kind"] == "roofline" and summary["cost"]["experts"] == 384
    assert summary["workload"]["preset"] == "swe-agent" and summary["workload"]["seed"] == 0
    assert summary["provenance"]["TokenSpeed"] == __version__


def test_the_summary_names_the_traces_content(tmp_path: Path) -> None:
    write_files(study(str(DATA / "azure_tiny.csv")), tmp_path)
    source = json.loads((tmp_path / "summary.json").read_text())["workload"]
    content = (DATA / "azure_tiny.csv").read_bytes()
    assert source["sha256"] == hashlib.sha256(content).hexdigest() and source["bytes"] == len(content)
    assert source["file"] == "azure_tiny.csv"
