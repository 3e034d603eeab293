"""Every trace format is read into the same workload, whatever it is packed in, and bad input is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenspeed.simulator.errors import WorkloadError
from tokenspeed.simulator.traces import read_trace
from tokenspeed.simulator.workload.options import BlockIds, TimeUnit, WorkloadOptions
from tokenspeed.simulator.workload.page_hashes import expand
from tokenspeed.simulator.workload.sampling import sampled
from tokenspeed.simulator.workload.workload import Call, Dependency, Session, Trigger, Workload

DATA = Path(__file__).parent / "data"
S = 1_000_000_000
OPTIONS = WorkloadOptions(block_size=64, limit=None, think_cap_ns=60 * S, concurrency=None)


def options(**changes: Any) -> WorkloadOptions:
    return replace(OPTIONS, **changes)


def shape(call: Call) -> tuple[int, int, int, int, int]:
    return call.session, call.turn, call.prompt_tokens, call.output_tokens, len(call.page_hashes)


def chain(ids: list[int], scope: int) -> list[int]:
    """Hashes of 64-token blocks of a 64-token trace."""
    return list(expand(np.array(ids, dtype=np.int64), 1, scope, len(ids)).tolist())


def packed_sessions(path: Path, pack: Callable[[bytes], bytes] = bytes) -> Path:
    """A tar of both tiny sessions and a file that is none, packed."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("traces/README.md"), io.BytesIO())
        for name in ("claude_code_tiny_a", "claude_code_tiny_b"):
            archive.add(DATA / f"{name}.json", f"traces/{name}.json")
    path.write_bytes(pack(content.getvalue()))
    return path


def same(a: Workload, b: Workload) -> bool:
    def plain(work: Workload) -> list[Any]:
        return [(*shape(c), c.after, c.page_hashes.tolist()) for c in work.calls]

    return plain(a) == plain(b) and list(a.sessions) == list(b.sessions)


# ---------------------------------------------------------------- Claude Code


def test_claude_code_sessions(tmp_path: Path) -> None:
    work = read_trace(packed_sessions(tmp_path / "t", lzma.compress), OPTIONS)
    assert [(s.name, s.calls) for s in work.sessions] == [("tiny_a", range(0, 5)), ("tiny_b", range(5, 7))]
    assert [shape(c) for c in work.calls] == [
        (0, 0, 200, 70, 4),  # the next call extends it: its output fills one more block, 270 // 64 = 4
        (0, 1, 340, 40, 5),  # the next call of this agent changes block 5: only its own full blocks
        (0, 0, 130, 10, 2),
        (0, 1, 200, 1, 3),  # an empty answer counts as one token
        (0, 2, 400, 20, 6),
        (1, 0, 64, 5, 1),
        (1, 1, 50, 5, 0),
    ]
    assert work.concurrency == 2
    assert [s.start_ns for s in work.sessions] == [0, S]


def test_claude_code_dependencies(tmp_path: Path) -> None:
    work = read_trace(packed_sessions(tmp_path / "t"), OPTIONS)
    assert [c.after for c in work.calls] == [
        (),
        (Dependency(0, 3 * S),),
        # The sub-agent starts 1.5 s after its parent's call was sent, which was still running.
        (Dependency(1, 3 * S // 2, Trigger.DISPATCH),),
        (Dependency(2, 3 * S),),
        # No think time is recorded: 90 s - (5 s + 4 s), capped at 60 s. The sub-agent ended at 15 s, 75 s before.
        (Dependency(1, 60 * S), Dependency(3, 60 * S)),
        (),
        (Dependency(5, 60 * S),),
    ]


def test_think_times_are_capped_where_asked(tmp_path: Path) -> None:
    work = read_trace(packed_sessions(tmp_path / "t"), options(think_cap_ns=1000 * S))
    assert work.calls[4].after == (Dependency(1, 81 * S), Dependency(3, 75 * S))
    assert work.calls[6].after == (Dependency(5, 690 * S),)


def test_claude_code_prefix_identities(tmp_path: Path) -> None:
    calls = read_trace(packed_sessions(tmp_path / "t"), OPTIONS).calls
    assert calls[0].page_hashes.tolist() == chain([1, 2, 3, 4], scope=1)
    assert calls[1].page_hashes.tolist() == chain([1, 2, 3, 4, 5], scope=1)
    assert calls[4].page_hashes.tolist() == chain([1, 2, 3, 4, 9, 10], scope=1)
    assert calls[5].page_hashes.tolist() == chain([1], scope=2)  # the same id means something else in another session


def test_global_ids_are_shared_between_sessions(tmp_path: Path) -> None:
    record = json.loads((DATA / "claude_code_tiny_b.json").read_text())
    record["hash_id_scope"] = "global"
    path = tmp_path / "session.json"
    path.write_text(json.dumps(record))
    assert read_trace(path, OPTIONS).calls[0].page_hashes.tolist() == chain([1], scope=0)


def test_smaller_scheduler_blocks_split_the_ids(tmp_path: Path) -> None:
    calls = read_trace(packed_sessions(tmp_path / "t"), options(block_size=16)).calls
    assert [len(c.page_hashes) for c in calls] == [270 // 16, 5 * 4, 140 // 16, 3 * 4, 6 * 4, 4, 0]
    assert calls[0].page_hashes.tolist() == calls[1].page_hashes[: 270 // 16].tolist()


def test_limit_takes_the_first_sessions(tmp_path: Path) -> None:
    work = read_trace(packed_sessions(tmp_path / "t", bz2.compress), options(limit=1))
    assert [s.name for s in work.sessions] == ["tiny_a"]


def test_an_answer_that_the_next_prompt_does_not_repeat_names_no_blocks(tmp_path: Path) -> None:
    record = json.loads((DATA / "claude_code_tiny_a.json").read_text())
    record["requests"][0]["out"] = 141  # 200 + 141 tokens, but the next prompt has 340
    path = tmp_path / "session.json"
    path.write_text(json.dumps(record))
    assert len(read_trace(path, OPTIONS).calls[0].page_hashes) == 200 // 64


def test_one_session_in_one_file() -> None:
    work = read_trace(DATA / "claude_code_tiny_b.json", OPTIONS)
    assert [shape(c) for c in work.calls] == [(0, 0, 64, 5, 1), (0, 1, 50, 5, 0)]


# ---------------------------------------------------------------- Mooncake and Azure


def test_mooncake() -> None:
    work = read_trace(DATA / "mooncake_tiny.jsonl", OPTIONS)
    assert [shape(c) for c in work.calls] == [(0, 0, 1100, 30, 17), (1, 0, 40, 12, 0), (2, 0, 1024, 1, 16)]
    assert [s.start_ns for s in work.sessions] == [0, S // 10, S // 4]
    assert not work.closed_loop
    first, _, third = (c.page_hashes.tolist() for c in work.calls)
    assert first[:8] == third[:8]  # id 0 names the same 512 tokens in both
    assert set(first[8:]).isdisjoint(third[8:])
    assert len(set(first + third)) == 17 + 8


def test_azure() -> None:
    work = read_trace(DATA / "azure_tiny.csv", OPTIONS)
    assert [shape(c) for c in work.calls] == [(0, 0, 4808, 10, 0), (1, 0, 3180, 8, 0), (2, 0, 110, 27, 0)]
    assert [s.start_ns for s in work.sessions] == [0, 52_000_000, 1_020_040_000]


@pytest.mark.parametrize("name", ["mooncake_tiny.jsonl", "azure_tiny.csv", "claude_code_tiny_a.json"])
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_packing_changes_nothing(name: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "packed"  # the name says nothing about the content
    path.write_bytes(pack((DATA / name).read_bytes()))
    assert same(read_trace(path, OPTIONS), read_trace(DATA / name, OPTIONS))


# ---------------------------------------------------------------- bad input


def mooncake_line(**changes: Any) -> bytes:
    record = {"timestamp": 1, "input_length": 10, "output_length": 2, "hash_ids": [3], **changes}
    return json.dumps({k: v for k, v in record.items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_length": None}, "line 2: field 'output_length' is missing"),
        ({"input_length": "many"}, "line 2: field 'input_length' is 'many'; it must be a whole number from 1 to"),
        ({"input_length": 0}, "line 2: field 'input_length' is 0"),
        ({"timestamp": -5}, "line 2: field 'timestamp' is -5"),
        ({"output_length": 10**12}, "line 2: field 'output_length' is 1000000000000"),
        ({"timestamp": 10**15}, "line 2: field 'timestamp' is 1000000000000000"),
        ({"hash_ids": 7}, "line 2: field 'hash_ids' is 7; it must be a list"),
        ({"hash_ids": ["x"]}, "line 2: field 'hash_ids' holds 'x', which is not a whole number"),
        ({"hash_ids": [0.5]}, "line 2: field 'hash_ids' holds 0.5, which is not a whole number"),
        ({"hash_ids": [True]}, "line 2: field 'hash_ids' holds True, which is not a whole number"),
        ({"hash_ids": [-1]}, "line 2: field 'hash_ids' holds -1; ids are whole numbers from 0"),
        ({"hash_ids": [1, 2]}, "line 2: field 'hash_ids' has 2 ids, too many for input_length 10"),
    ],
)
def test_bad_mooncake_names_line_and_field(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(mooncake_line() + b"\n" + mooncake_line(**changes) + b"\n")
    with pytest.raises(WorkloadError, match=r"^bad\.jsonl, ") as error:
        read_trace(path, OPTIONS)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2023-11-16 18:17:03.1,x,5", "line 3: field 'ContextTokens' is 'x'"),
        ("2023-11-16 18:17:03.1,5", "line 3: field 'GeneratedTokens' is None"),
        ("2023-11-31 18:17:03.1,5,5", "line 3: field 'TIMESTAMP' is '2023-11-31 18:17:03.1'"),
        ("yesterday,5,5", "line 3: field 'TIMESTAMP' is 'yesterday'"),
    ],
)
def test_bad_azure_names_line_and_field(row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,5,5\n{row}\n")
    with pytest.raises(WorkloadError, match=r"bad\.csv") as error:
        read_trace(path, OPTIONS)
    assert message in str(error.value)


def test_missing_azure_column(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("TIMESTAMP,ContextTokens\n")
    with pytest.raises(WorkloadError, match="column 'GeneratedTokens' is missing"):
        read_trace(path, OPTIONS)


@pytest.mark.parametrize(
    ("path_in_session", "value", "message"),
    [
        (("requests", 1, "in"), -1, "request 1: field 'in' is -1"),
        (("requests", 1, "think_time"), "long", "request 1: field 'think_time' is 'long'"),
        (("requests", 2, "requests", 0, "out"), None, "request 2, request 0: field 'out' is None"),
        (("requests", 2, "requests"), [], "request 2: field 'requests' of the sub-agent is empty"),
        (
            ("requests", 0, "hash_ids"),
            [1, 2, 3, 4, 5],
            "request 0: field 'hash_ids' has 5 ids, too many for 200 tokens",
        ),
        (("requests",), [], "field 'requests' is empty"),
        (("requests",), [5], "request 0: must be a JSON object"),
        (("hash_id_scope",), "weekly", "field 'hash_id_scope' is 'weekly'"),
        (("block_size",), 0, "field 'block_size' is 0"),
    ],
)
def test_bad_session_names_request_and_field(
    path_in_session: tuple[str | int, ...], value: Any, message: str, tmp_path: Path
) -> None:
    record = json.loads((DATA / "claude_code_tiny_a.json").read_text())
    place = record
    for step in path_in_session[:-1]:
        place = place[step]
    place[path_in_session[-1]] = value
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(record))
    with pytest.raises(WorkloadError, match="session 'tiny_a'") as error:
        read_trace(path, OPTIONS)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["mooncake_tiny.jsonl", "claude_code_tiny_a.json"])
def test_block_size_that_does_not_divide_says_what_would(name: str) -> None:
    with pytest.raises(WorkloadError, match=r"block_size is 48 .* use --block-size .*64"):
        read_trace(DATA / name, options(block_size=48))


def test_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("Shall I compare thee\n")
    with pytest.raises(WorkloadError, match=r"poem.txt is in no known .*'Shall I compare thee'.*Mooncake.*Azure"):
        read_trace(path, OPTIONS)


def test_truncated_archive_says_so(tmp_path: Path) -> None:
    whole = gzip.compress((DATA / "mooncake_tiny.jsonl").read_bytes())
    path = tmp_path / "half.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkloadError, match=r"half\.gz cannot be unpacked"):
        read_trace(path, OPTIONS)


def test_truncated_tar_says_so(tmp_path: Path) -> None:
    whole = packed_sessions(tmp_path / "whole").read_bytes()
    path = tmp_path / "half.tar"
    path.write_bytes(whole[:2000])
    with pytest.raises(WorkloadError, match=r"half\.tar|claude_code_tiny_a\.json"):
        read_trace(path, OPTIONS)


def test_empty_trace_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    with pytest.raises(WorkloadError, match="has no calls"):
        read_trace(path, OPTIONS)


TINY = [path.read_bytes() for path in sorted(DATA.iterdir())]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.sampled_from([*TINY, *(gzip.compress(content) for content in TINY)]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.05), st.binary(max_size=4)), min_size=1, max_size=3),
)
def test_damaged_files_are_refused_or_read_never_crash(
    content: bytes, cuts: list[tuple[float, float, bytes]], tmp_path: Path
) -> None:
    for start, length, replacement in cuts:
        begin = int(start * len(content))
        content = content[:begin] + replacement + content[begin + int(length * len(content)) :]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        work = read_trace(path, OPTIONS)
    except WorkloadError as error:
        assert str(error)
    else:
        assert work.calls


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"timestamp":' + "9" * 5000 + "}", '{"a":' * 50_000, "\x00" * 600, ""]
)
def test_absurd_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "absurd"
    path.write_text(text)
    with pytest.raises(WorkloadError):
        read_trace(path, OPTIONS)


# ---------------------------------------------------------------- what would give wrong results in silence


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return path


def request(timestamp: float | None, ids: list[Any], **more: Any) -> dict[str, Any]:
    record = {"timestamp": timestamp, "input_length": 512 * len(ids), "output_length": 2, "hash_ids": ids, **more}
    return {name: value for name, value in record.items() if value is not None}


def test_ids_of_contents_are_refused_and_can_be_declared(tmp_path: Path) -> None:
    """Id 8 stands behind 4 and behind 21: it cannot name a prefix."""
    path = lines(tmp_path / "t.jsonl", request(0, [1, 4, 8]), request(1, [1, 21, 8]), request(2, [1, 4, 8]))
    with pytest.raises(
        WorkloadError, match=r"line 2: field 'hash_ids' has id 8 behind id 21, but elsewhere behind id 4"
    ):
        read_trace(path, OPTIONS)
    first, second, third = (
        c.page_hashes.tolist() for c in read_trace(path, options(block_ids=BlockIds.CONTENTS)).calls
    )
    assert first == third and first[:8] == second[:8]
    assert set(first[8:]).isdisjoint(second[8:])


def test_an_id_at_the_start_and_in_the_middle_is_refused(tmp_path: Path) -> None:
    for second in ([2, 1], [1, 1]):
        with pytest.raises(WorkloadError, match=r"id 1 behind id ., but elsewhere at the start of a prompt"):
            read_trace(lines(tmp_path / "t.jsonl", request(0, [1]), request(1, second)), OPTIONS)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_declared_contents_hit_exactly_where_prefixes_are_equal(tmp_path: Path, prompts: list[list[int]]) -> None:
    path = lines(tmp_path / "t.jsonl", *(request(n, ids) for n, ids in enumerate(prompts)))
    calls = read_trace(path, options(block_ids=BlockIds.CONTENTS)).calls
    for a, left in zip(prompts, calls, strict=True):
        for b, right in zip(prompts, calls, strict=True):
            for n in range(min(len(a), len(b))):
                same = bool(left.page_hashes[8 * n] == right.page_hashes[8 * n])
                assert same == (a[: n + 1] == b[: n + 1])


def test_page_hashes_of_a_workload_of_your_own_are_checked() -> None:
    def made(*hashes: list[int]) -> Workload:
        calls = [Call(n, n, 0, 64 * len(h), 1, np.array(h, dtype=np.uint64)) for n, h in enumerate(hashes)]
        return Workload("mine", 64, [Session(f"s{n}", n, range(n, n + 1)) for n in range(len(calls))], calls, None)

    made([1, 2, 3], [1, 2, 4])
    with pytest.raises(WorkloadError, match="workload 'mine': page hash 3 stands behind two different hashes"):
        made([1, 2, 3], [1, 4, 3])


def test_turns_of_a_mooncake_session_wait_for_the_answer(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "t.jsonl",
        request(100, [1, 2], session_id="a"),
        request(50, [7], session_id="b"),
        request(110, [1, 2, 3], session_id="a", delay=500),
        request(None, [1, 2, 3, 4], session_id="a", delay=90_000),
    )
    work = read_trace(path, OPTIONS)
    assert [(s.name, s.start_ns, s.calls) for s in work.sessions] == [
        ("b", S // 20, range(0, 1)),
        ("a", S // 10, range(1, 4)),
    ]
    assert [c.turn for c in work.calls] == [0, 0, 1, 2]
    assert work.calls[2].after == (Dependency(1, S // 2), Dependency(1, S // 100, Trigger.DISPATCH))
    assert work.calls[3].after == (Dependency(2, 60 * S),)  # capped
    assert work.concurrency is None and work.has_turns


def test_sessions_without_any_time_start_as_places_come_free(tmp_path: Path) -> None:
    rows = [request(None, [n], session_id=f"s{n % 6}") for n in range(12)]
    work = read_trace(lines(tmp_path / "t.jsonl", *rows), OPTIONS)
    assert work.concurrency == 4 and len(work.sessions) == 6
    with pytest.raises(WorkloadError, match="line 2: field 'timestamp' is missing; the first row of a session"):
        read_trace(lines(tmp_path / "t.jsonl", request(1, [1]), request(None, [2], session_id="x")), OPTIONS)


def test_a_turn_before_its_session_is_refused(tmp_path: Path) -> None:
    rows = (request(9, [1], session_id="a"), request(8, [1, 2], session_id="a"))
    with pytest.raises(WorkloadError, match="line 2: field 'timestamp' is 8, before that of the session's first row"):
        read_trace(lines(tmp_path / "t.jsonl", *rows), OPTIONS)


def test_fields_that_nothing_uses_are_told(tmp_path: Path) -> None:
    rows = (request(0, [1], priority=1, delay=4), request(1, [1], priority=2, session_id="a", delay=4))
    work = read_trace(lines(tmp_path / "t.jsonl", *rows), OPTIONS)
    assert work.warnings == ("fields that are not used: 'delay' (1), 'priority' (2)",)


@pytest.mark.parametrize(("times", "unit"), [((1_732_000_000, 1_732_000_060), "s"), ((0.5, 60.5), "s")])
def test_times_that_may_be_seconds_are_refused_until_said(
    times: tuple[float, float], unit: str, tmp_path: Path
) -> None:
    path = lines(tmp_path / "t.jsonl", *(request(time, [1]) for time in times))
    with pytest.raises(WorkloadError, match=r"'timestamp' holds .*say which with --time-unit ms or --time-unit s"):
        read_trace(path, OPTIONS)
    starts = [s.start_ns for s in read_trace(path, options(time_unit=TimeUnit(unit))).sessions]
    assert starts[1] - starts[0] == 60 * S and starts[0] < S


def test_milliseconds_since_1970_count_from_the_first_arrival(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", request(1_732_000_000_000, [1]), request(1_732_000_000_250, [1]))
    work = read_trace(path, OPTIONS)
    assert [s.start_ns for s in work.sessions] == [0, S // 4]
    assert work.assumptions["Recorded times"] == "milliseconds since 1970, counted from the first arrival"


def test_bad_records_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", request(0, [1]), {"timestamp": 1}, request(2, [0.5]), request(3, [1]))
    with pytest.raises(WorkloadError, match="line 2"):
        read_trace(path, OPTIONS)
    work = read_trace(path, options(skip_bad=True))
    assert len(work.calls) == 2
    assert work.warnings[0].startswith("2 lines cannot be read and are left out; the first: t.jsonl, line 2: field")


def test_one_bad_session_does_not_refuse_a_folder_if_asked(tmp_path: Path) -> None:
    good = json.loads((DATA / "claude_code_tiny_a.json").read_text())
    bad = json.loads((DATA / "claude_code_tiny_a.json").read_text())
    bad["requests"][2]["requests"] = []
    for name, record in (("a", good), ("b", bad), ("c", good)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    with pytest.raises(WorkloadError, match=r"b\.json"):
        read_trace(tmp_path, OPTIONS)
    work = read_trace(tmp_path, options(skip_bad=True))
    assert [s.calls for s in work.sessions] == [range(0, 5), range(5, 10)]
    assert [c.page_hashes.tolist() for c in work.calls[5:]] != [c.page_hashes.tolist() for c in work.calls[:5]]
    assert any(warning.startswith("1 sessions cannot be read") for warning in work.warnings)


def test_sessions_one_a_line(tmp_path: Path) -> None:
    rows = [json.loads((DATA / f"claude_code_tiny_{name}.json").read_text()) for name in "ab"]
    work = read_trace(lines(tmp_path / "t.jsonl", *rows), OPTIONS)
    assert same(work, read_trace(packed_sessions(tmp_path / "t.tar"), OPTIONS))


def test_several_recorded_models_are_told() -> None:
    work = read_trace(DATA / "claude_code_tiny_a.json", OPTIONS)
    assert len(work.assumptions["Recorded models"]) > 0


def test_a_limit_on_live_sessions_holds_for_recorded_arrivals_too() -> None:
    assert read_trace(DATA / "azure_tiny.csv", options(concurrency=2)).concurrency == 2
    assert read_trace(DATA / "mooncake_tiny.jsonl", options(concurrency=2)).concurrency == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_is_the_seeds(seed: int, tmp_path: Path) -> None:
    rows = [request(n, [n], session_id=f"s{n % 10}") for n in range(20)]
    work = read_trace(lines(tmp_path / "t.jsonl", *rows), OPTIONS)
    one, two = sampled(work, 4, seed), sampled(work, 4, seed)
    assert same(one, two) and len(one.sessions) == 4 and len(one.calls) == 8
    assert [s.start_ns for s in one.sessions] == sorted(s.start_ns for s in one.sessions)
    assert not same(one, sampled(work, 4, seed + 2))
    with pytest.raises(WorkloadError, match=r"sample is 11; workload .* has 10 sessions"):
        sampled(work, 11, seed)
