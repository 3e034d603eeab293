"""Tuning tables: what is found in them, what the tuner puts there, and that the committed ones can be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.kernels import REGISTRY
from tokenspeed.kernels.tuning import TUNABLES, Choice, Entry, Table, Tunable, bucket, table, tuned, tuner

pytestmark = pytest.mark.serve

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")


@given(size=st.integers(1, 2**40))
def test_a_bucket_is_the_next_power_of_two(size: int) -> None:
    ((name, rounded),) = bucket({"rows": size})
    assert name == "rows" and rounded & (rounded - 1) == 0
    assert rounded // 2 < size <= rounded


def entry(device: str = "H100", triton: str = "3.6.0", splits: int = 4, **shape: int) -> Entry:
    return Entry(device, triton, shape, {"splits": splits}, 10.0, 12.0)


def test_a_table_finds_by_device_version_and_bucket_and_survives_the_disk(tmp_path: Path) -> None:
    written = Table("mla_decode", "fast", [entry(rows=8, context=1024), entry(device="H200", splits=7, rows=8)])
    written.save(tmp_path)
    read = Table.load("mla_decode", "fast", tmp_path)
    assert read.entries() == written.entries()
    for found in (written, read):
        assert found.find("H100", "3.6.0", {"context": 600, "rows": 5}) == {"splits": 4}
        assert found.find("H100", "3.6.0", {"context": 600, "rows": 4}) is None
        assert found.find("H100", "3.7.0", {"context": 1024, "rows": 8}) is None
        assert found.find("H200", "3.6.0", {"rows": 8}) == {"splits": 7}
    assert Table.load("mla_decode", "other", tmp_path).entries() == ()


def test_replacing_keeps_other_devices_and_versions() -> None:
    kept = Table(
        "mla_decode", "fast", [entry(rows=1), entry(rows=2), entry("H200", rows=1), entry(triton="3.5.0", rows=1)]
    )
    kept.replace("H100", "3.6.0", [entry(splits=9, rows=4)])
    assert kept.find("H100", "3.6.0", {"rows": 1}) is None
    assert kept.find("H100", "3.6.0", {"rows": 4}) == {"splits": 9}
    assert len(kept.entries()) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"entries": [{"device": "H100"}]}'])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mla_decode.fast.json").write_text(text)
    with pytest.raises(ValueError, match=r"mla_decode\.fast\.json is not a tuning table"):
        Table.load("mla_decode", "fast", tmp_path)


def test_looking_up_reads_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Table("mla_decode", "fast", [entry(rows=8)]).save(tmp_path)
    monkeypatch.setattr(table, "_table", lambda operation, kernel: Table.load(operation, kernel, tmp_path))
    monkeypatch.setattr(table, "device_name", lambda device: "H100")
    monkeypatch.setattr(table, "triton_version", lambda: "3.6.0")
    assert tuned("mla_decode", "fast", CUDA, rows=7) == {"splits": 4}
    assert tuned("mla_decode", "fast", CUDA, rows=9) is None
    assert tuned("mla_decode", "fast", CPU, rows=7) is None


def test_the_tuner_keeps_what_beats_the_rule_and_skips_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "device_name", lambda device: "H100")
    monkeypatch.setattr(tuner, "triton_version", lambda: "3.6.0")
    # Instead of timing: a choice of n splits takes as many microseconds as the table says, by rows.
    times = {1: {1: 50.0, 2: 40.0, 8: 60.0}, 2: {1: 50.0, 2: 46.0, 8: 60.0}, 4: {1: 500.0, 2: 490.0, 8: 480.0}}

    def prepare(shape: object, device: torch.device) -> object:
        def launches(choice: Choice) -> list[object]:
            def launch() -> None:
                if choice["splits"] == 16:
                    raise RuntimeError("out of resources")

            launch.us = times[shape["rows"]].get(choice["splits"])  # type: ignore[index,attr-defined]
            return [launch]

        return launches

    monkeypatch.setattr(
        tuner, "measure", lambda variants, device, rounds: {name: [v[0].us] * 3 for name, v in variants.items()}
    )
    choices = [{"splits": splits} for splits in (1, 16, 2, 8)]
    declared = Tunable(
        "mla_decode",
        "fast",
        [{"rows": 1}, {"rows": 2}, {"rows": 4}],
        lambda shape, device: choices,
        prepare,  # type: ignore[arg-type]
    )
    found = [entry for _, entry in tuner.tune(declared, CPU)]
    assert found[0] is not None and found[0].choice == {"splits": 2} and found[0].rule_us == 50.0
    assert found[1] is None  # 8 % of a short call
    assert found[2] is not None and found[2].choice == {"splits": 8}


def test_committed_tables_belong_to_kernels_that_can_be_tuned() -> None:
    for name in REGISTRY.operations():
        REGISTRY.operation(name).kernels()
    for path in table.FOLDER.glob("*.json"):
        operation, kernel = path.name.removesuffix(".json").split(".")
        declared = TUNABLES[operation, kernel]
        for entry in Table.load(operation, kernel).entries():
            names = {tuple(sorted(choice)) for choice in declared.choices(entry.shape, CPU)}
            assert tuple(sorted(entry.choice)) in names
            assert set(entry.shape) == set(declared.shapes[0])


def test_no_two_shapes_of_a_kernel_share_a_bucket() -> None:
    for name in REGISTRY.operations():
        REGISTRY.operation(name).kernels()
    for declared in TUNABLES.values():
        buckets = [bucket(shape) for shape in declared.shapes]
        assert len(set(buckets)) == len(buckets)
