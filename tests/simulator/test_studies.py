"""Studies of many cells: every combination once, whoever computes it; honest intervals; nothing silent."""

from __future__ import annotations

import csv
import json
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tokenspeed.cli import main
from tokenspeed.scheduler import Policy, RequestView
from tokenspeed.simulator import StudySettings
from tokenspeed.simulator.errors import ConfigurationError, PolicyFailed
from tokenspeed.simulator.sweep.cells import run_cells
from tokenspeed.simulator.sweep.experiment import Experiment, Targets, read_experiment
from tokenspeed.simulator.sweep.intervals import interval, paired
from tokenspeed.simulator.sweep.outcome import SHOWN, Outcome

STUDY = """
name = "Small"
seeds = 2
baseline = { policy = "default" }
targets = { ttft_ms = 500, tokens_per_s = 100 }
[base]
workload = "swe-agent"
limit = 2
[sweep]
policy = ["default", "lru", "mine.py:Mine"]
concurrency = [1, 2]
"""
MINE = """
from tokenspeed.scheduler import Policy


class Mine(Policy):
    def place(self, request):
        return request.prompt_tokens, 0
"""


def write(folder: Path, text: str = STUDY, mine: str = MINE) -> Path:
    (folder / "mine.py").write_text(mine)
    path = folder / "study.toml"
    path.write_text(text)
    return path


def study(path: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["study", str(path), "--out", str(out), *more])


def test_a_study_from_the_command_line_is_the_same_with_any_number_of_processes(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert study(path, tmp_path / "one", "--workers", "1").exit_code == 0
    assert study(path, tmp_path / "two", "--workers", "2").exit_code == 0
    names = {p.name for p in (tmp_path / "one").iterdir() if p.is_file()}
    assert names >= {"cells.csv", "summary.csv", "pairs.csv", "study.json", "study.html"}
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    rows = list(csv.DictReader((tmp_path / "one" / "cells.csv").open(newline="")))
    assert [(r["policy"], r["concurrency"], r["seed"]) for r in rows] == [
        (p, c, s) for p in ("default", "lru", "mine.py:Mine") for c in "12" for s in "01"
    ]
    assert str(tmp_path).encode() not in b"".join((tmp_path / "one" / n).read_bytes() for n in names)


def test_a_stopped_study_goes_on_and_a_changed_policy_runs_again(tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path))
    done: list[int] = []
    first = run_cells(experiment, tmp_path / "out", 1, lambda n, _: done.append(n))
    assert done == list(range(13))
    kept = sorted((tmp_path / "out" / "cells").iterdir())
    kept[3].unlink()
    done.clear()
    assert run_cells(experiment, tmp_path / "out", 1, lambda n, _: done.append(n)) == first
    assert done == [11, 12]
    done.clear()
    write(tmp_path, mine=MINE.replace("request.prompt_tokens", "-request.prompt_tokens"))
    run_cells(read_experiment(tmp_path / "study.toml"), tmp_path / "out", 1, lambda n, _: done.append(n))
    assert done == [8, 9, 10, 11, 12]  # the four cells of mine.py


def test_a_policy_that_fails_stops_the_study_and_names_the_cell(tmp_path: Path) -> None:
    result = study(write(tmp_path, mine=MINE.replace("prompt_tokens", "promt")), tmp_path / "out", "--workers", "2")
    assert result.exit_code == 2
    assert "cell with policy mine.py:Mine, concurrency" in result.stderr and "has no attribute 'promt'" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("limit = 2", "limits = 2"), "study.toml, base: 'limits' is no setting; use block_ids"),
        (('workload = "swe-agent"', ""), "study.toml, base: 'workload' is missing"),
        (("[sweep]", "[sweep]\nseed = [1]"), "sweep: 'seed' is no setting that can be swept"),
        (("concurrency = [1, 2]", "concurrency = 3"), "sweep: 'concurrency' is 3; it must be a list of values"),
        (("concurrency = [1, 2]", "concurrency = [1, 1]"), "sweep: 'concurrency' has a value twice"),
        (('policy = "default" }', 'policy = "best" }'), "baseline: 'policy' is 'best'; it must be one of default, lru"),
        (('baseline = { policy = "default" }', "baseline = { tp = 4 }"), "baseline: 'tp' is not swept"),
        (("seeds = 2", 'seeds = "two"'), "seeds is 'two'"),
        (("seeds = 2", "seeds = [1, 1]"), "seeds is [1, 1]; it must be different numbers"),
        (("ttft_ms", "ttfb_ms"), "unexpected keyword argument 'ttfb_ms'"),
        (("name =", "title ="), "study.toml: 'title' is not known; use base, baseline"),
        (("mine.py:Mine", "none.py:Mine"), "there is no file"),
        (("mine.py:Mine", "mine.py:Yours"), "mine.py has no class 'Yours'"),
        (("seeds = 2", "seeds = "), "cannot be read"),
        (("limit = 2", 'limit = "2"'), "limit is '2'; it must be of type int"),
        (("limit = 2", "usable_memory = true"), "usable_memory is True; it must be of type int or float"),
        (("concurrency = [1, 2]", "concurrency = [1.5]"), "concurrency is 1.5; it must be of type int"),
        (
            ('workload = "swe-agent"', 'workload = "azure.csv"'),
            "nothing in 'azure.csv' is drawn, so all would be the same",
        ),
    ],
)
def test_what_a_study_cannot_mean_is_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    result = study(write(tmp_path, STUDY.replace(*change)), tmp_path / "out", "--workers", "1")
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], result.stderr


class Fewest(Policy):
    def place(self, request: RequestView) -> tuple[int, int]:
        return request.prompt_tokens, 0


def test_the_same_from_python_with_classes_and_configurations(tmp_path: Path) -> None:
    experiment = Experiment(
        "mine",
        StudySettings("swe-agent", limit=1),
        {"policy": ["default", Fewest]},
        configurations={"tp4": {"tp": 4}, "tp8": {"tp": 8}},
        baseline={"policy": "default"},
    )
    rows = run_cells(experiment, tmp_path, workers=1)
    assert [(row["configuration"], row["policy"], row["gpus"]) for row in rows] == [
        ("tp4", "default", 4), ("tp4", "Fewest", 4), ("tp8", "default", 8), ("tp8", "Fewest", 8),
    ]  # fmt: skip


def outcome(values: dict[tuple[str, int], list[float]], target: float = 70) -> Outcome:
    """Speeds by (policy, concurrency), one for each seed; output falls as speed rises."""
    policies, loads = (list(dict.fromkeys(key[n] for key in values)) for n in (0, 1))
    experiment = Experiment(
        "made",
        StudySettings("swe-agent"),
        {"policy": policies, "concurrency": loads},
        seeds=range(len(next(iter(values.values())))),
        baseline={"policy": policies[0]},
        targets=Targets(tokens_per_s=target),
    )
    rows: list[dict[str, Any]] = []
    for (policy, load), speeds in values.items():
        for seed, speed in enumerate(speeds):
            row = {**dict.fromkeys(SHOWN, 0.0), "policy": policy, "concurrency": str(load), "seed": seed}
            row |= dict.fromkeys(("tokens_per_s_per_user_p50", "tokens_per_s_per_user_p90"), speed)
            row["output_tokens_per_min_per_gpu_mean"] = 1000.0 - speed + (50 if policy == "lru" else 0)
            rows.append(row)
    return Outcome(experiment, rows)


def test_pairing_finds_what_noise_hides() -> None:
    """Every seed says that lru is 1 faster; seeds differ by 20."""
    result = outcome({("default", 4): [70.0, 90.0, 110.0], ("lru", 4): [71.0, 91.0, 111.0]})
    alone = result.mean(("lru", "4"), "tokens_per_s_per_user_p90")
    difference = result.difference(("lru", "4"), "tokens_per_s_per_user_p90")
    assert alone is not None and difference is not None and alone.half_width is not None
    assert alone.half_width > 40 and difference.mean == pytest.approx(1) and difference.significant
    assert result.difference(("default", "4"), "tokens_per_s_per_user_p90") is None


def test_the_floor_is_held_up_to_the_last_load_before_the_first_that_misses_it() -> None:
    result = outcome({("default", 2): [99.0, 99.0], ("default", 4): [60.0, 60.0], ("default", 8): [80.0, 80.0],
                      ("lru", 2): [99.0, 99.0], ("lru", 4): [60.0, 90.0], ("lru", 8): [10.0, 10.0]})  # fmt: skip
    assert result.floors() == [
        {"policy": "default", "highest concurrency": "2", "highest concurrency, 95 %": "2"},
        {"policy": "lru", "highest concurrency": "4", "highest concurrency, 95 %": "2"},
    ]


def test_what_decides_nothing_is_told() -> None:
    result = outcome({("default", 4): [70.0, 90.0], ("youngest-victim", 4): [70.0, 90.0]})
    for row in result.rows:
        row["output_tokens_per_min_per_gpu_mean"] = 1.0
    assert result.identical() == [("youngest-victim", "4")]


def test_the_pareto_front_is_who_no_other_beats() -> None:
    result = outcome({("default", 2): [99.0], ("lru", 2): [99.0], ("default", 4): [60.0], ("lru", 4): [30.0]})
    assert result.pareto() == {("lru", "2"), ("lru", "4")}


def test_intervals_by_hand() -> None:
    assert interval([]) is None
    one, five = interval([3.0]), interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert one is not None and one.half_width is None and not one.significant
    assert five is not None and five.mean == 3
    assert five.half_width == pytest.approx(2.776 * sqrt(2.5) / sqrt(5))
    difference = paired([1.0, 2.0], [1.5, 2.5])
    assert difference is not None and (difference.mean, difference.half_width) == (-0.5, 0)
    with pytest.raises(ValueError, match="argument"):
        paired([1.0], [1.0, 2.0])


def test_the_page_is_self_contained_and_says_what_ran(tmp_path: Path) -> None:
    assert study(write(tmp_path), tmp_path / "out", "--workers", "1").exit_code == 0
    page = (tmp_path / "out" / "study.html").read_text()
    assert "plotly.js v" in page and " src=" not in page.split("<body>")[1]
    said = json.loads((tmp_path / "out" / "study.json").read_text())
    assert said["study"]["sweep"]["policy"] == ["default", "lru", "mine.py:Mine"]
    for text in ("Highest load at which 9 of 10 calls reach 100 tokens/s", "Pareto", said["provenance"]["TokenSpeed"]):
        assert text in page


def test_errors_of_the_file_come_before_any_simulation(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="policy is 'best'; known policies"):
        run_cells(Experiment("x", StudySettings("swe-agent", limit=1, policy="best"), {}), tmp_path, 1)
    (tmp_path / "raises.py").write_text("1 / 0")
    with pytest.raises(PolicyFailed, match=r"raises\.py cannot be read: ZeroDivisionError"):
        run_cells(
            Experiment("x", StudySettings("swe-agent", limit=1, policy=str(tmp_path / "raises.py:A")), {}), tmp_path, 1
        )
