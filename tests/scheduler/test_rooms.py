"""The scheduler's C++ has rooms of at most ten files, and Python stays out of the library."""

from __future__ import annotations

import re

from tokenspeed.spec.conform.binary import SCHEDULER

SOURCES = [p for p in SCHEDULER.rglob("*") if p.suffix in (".cpp", ".h")]


def test_no_room_has_more_than_ten_files_and_no_file_more_than_460_lines() -> None:
    rooms = {p.parent for p in SOURCES}
    assert len(rooms) > 5
    for room in rooms:
        assert len([p for p in room.iterdir() if p.is_file() and p.suffix != ".so"]) <= 10, room
    written = [p for p in SOURCES if "generated" not in p.parts]
    assert max(len(p.read_text().split("\n")) for p in written) <= 460


def test_the_library_includes_neither_python_nor_what_is_built_on_it() -> None:
    for path in SOURCES:
        if path.relative_to(SCHEDULER).parts[0] in ("core", "generated"):
            included = re.findall(r"#include [<\"](.*)[>\"]", path.read_text())
            assert not [x for x in included if x.startswith(("pybind11", "scheduler/python"))], path


def test_every_include_of_ours_is_written_from_the_root() -> None:
    for path in SOURCES:
        for name in re.findall(r'#include "(.*)"', path.read_text()):
            assert (SCHEDULER.parent / name).is_file(), f"{path.name} includes {name}"
