"""No code but the generated one can write the machine's state: checked in the source text, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenspeed.spec.conform.binary import SCHEDULER, generated_sources
from tokenspeed.spec.conform.cpp.declarations import Structure, read_unit
from tokenspeed.spec.conform.single_writer import EXCEPTION, other_writers, unchecked_friends

HEADER = generated_sources().header


def machine() -> Structure:
    return read_unit(HEADER, "machine.h", True).structures["Machine"]


def private_members() -> tuple[str, ...]:
    return tuple(name for name, field in machine().fields.items() if field.private)


def test_hand_written_code_cannot_write_the_state() -> None:
    assert [str(f) for f in other_writers(SCHEDULER, private_members())] == []
    assert [str(f) for f in unchecked_friends(HEADER)] == []


def test_the_state_is_private_and_every_transition_is_nodiscard() -> None:
    assert set(machine().fields) == set(private_members()), "a public field of Machine"
    applies = {name: f for name, f in machine().functions.items() if name.startswith("apply")}
    assert applies and all(f.nodiscard and f.returns == "Guard" for f in applies.values())


@pytest.mark.parametrize(
    "line",
    [
        "auto& m = const_cast<Machine&>(scheduler.machine());",
        "auto* raw = reinterpret_cast<std::int64_t*>(&machine_);",
        "#define private public",
        "#  define class struct",
        "friend class Planner;",
        "auto member = &Machine::globals_;",
        "auto member = &tokenspeed::Machine::globals_;",
        "void Machine::recheck() const {}",
        "Guard Machine::apply_reap(BlockId b) {",
        "template <> void grant<Machine>(Machine& m);",
        "std::memcpy(&machine_, saved, sizeof saved);",
        "mutable Machine machine_;",
        '#include "scheduler/verification/state_image.h"',
        "machine_.globals_.free = 3;",
        "self->machine().globals_.free = 3;",
    ],
)
def test_each_way_around_is_named_with_file_and_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/planner.cpp").write_text(f"// a comment may say const_cast\n\n{line}\n")
    found = other_writers(tmp_path / "scheduler", private_members())
    assert found and all(str(f).startswith("scheduler/planner.cpp:3: ") for f in found)


def test_the_one_exception_is_the_only_file_that_needs_to_be_one(tmp_path: Path) -> None:
    text = (SCHEDULER / EXCEPTION).read_text()
    (tmp_path / "scheduler" / EXCEPTION.parent).mkdir(parents=True)
    (tmp_path / "scheduler" / EXCEPTION).write_text(text)
    assert other_writers(tmp_path / "scheduler") == []
    (tmp_path / "scheduler/another.h").write_text(text)
    assert {f.file for f in other_writers(tmp_path / "scheduler")} == {"scheduler/another.h"}


@pytest.mark.parametrize("line", ["  friend class Planner;", "  mutable Limits spare_;", " protected:"])
def test_the_generated_class_lets_nobody_in(line: str) -> None:
    found = unchecked_friends(HEADER.replace(" private:", f"{line}\n private:", 1))
    assert len(found) == 1 and found[0].file == "machine.h" and found[0].line > 100
