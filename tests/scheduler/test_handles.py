"""The typestate handles: legal lives compile and run, every illegal edge is refused by the compiler for its reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tokenspeed.spec.conform.binary import SCHEDULER
from tokenspeed.spec.language.spec import Variable
from tokenspeed.spec.system import SPEC

HERE = Path(__file__).parent
FAIL = sorted((HERE / "compile_fail").glob("*.cpp"))
PASS = sorted((HERE / "compile_pass").glob("*.cpp"))
FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{SCHEDULER.parent}"]


def cxx_compiler() -> str:
    """The compiler that CMake used for this checkout, or the one that it would find."""
    for cache in sorted((SCHEDULER.parent / "build").glob("*/CMakeCache.txt")):
        found = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache.read_text(), re.MULTILINE)
        if found and shutil.which(found[1]):
            return found[1]
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "a C++ compiler is needed: apt-get install g++"
    return compiler


CXX = cxx_compiler()


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """handles.h, compiled once: every case starts from there."""
    header = tmp_path_factory.mktemp("handles") / "start.h"
    header.write_text('#include <utility>\n#include <vector>\n#include "scheduler/generated/handles.h"\n')
    subprocess.run([CXX, *FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch"], check=True)
    return header


def errors_of(text: str, header: Path) -> list[str]:
    """The compiler's errors; no file is written."""
    command = [CXX, *FLAGS, "-include", str(header), "-fsyntax-only", "-x", "c++", "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert bool(errors) == (result.returncode != 0), result.stderr
    return errors


@pytest.fixture(scope="module")
def errors(header: Path) -> dict[str, list[str]]:
    """The errors of every case, compiled on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda path: errors_of(path.read_text(), header), [*FAIL, *PASS])
        return {path.stem: lines for path, lines in zip([*FAIL, *PASS], found, strict=True)}


def without_wrong_line(path: Path) -> str:
    """The case in a namespace of its own, without the line that must not compile."""
    lines = path.read_text().split("\n")
    kept = [line for line in lines if not line.endswith("// WRONG") and not line.startswith("#include")]
    return f"namespace {path.stem} {{\n" + "\n".join(kept) + "}"


def test_but_for_the_wrong_line_every_case_compiles(header: Path) -> None:
    unused = '#pragma GCC diagnostic ignored "-Wunused-parameter"'
    assert errors_of("\n".join([unused, *map(without_wrong_line, FAIL)]), header) == []


@pytest.mark.parametrize("path", FAIL, ids=lambda p: p.stem)
def test_wrong_line_does_not_compile_for_its_reason(path: Path, errors: dict[str, list[str]]) -> None:
    text = path.read_text()
    reason = text.split("\n", 1)[0].removeprefix("// reason: ")
    wrong = [i for i, line in enumerate(text.split("\n"), 1) if line.endswith("// WRONG")]
    assert len(wrong) == 1
    found = errors[path.stem]
    assert found, "this compiles"
    assert re.search(reason, found[0]), found[0]
    assert f"<stdin>:{wrong[0]}:" in found[0], found[0]


@pytest.mark.parametrize("path", PASS, ids=lambda p: p.stem)
def test_legal_lives_compile(path: Path, errors: dict[str, list[str]]) -> None:
    assert errors[path.stem] == []


def machines() -> dict[str, Variable]:
    return {m.machine.sorts[0].name: m.machine for t in SPEC.transitions.values() for m in t.moves}


def camel(value: str) -> str:
    return "".join(word.title() for word in value.split("_"))


def test_each_state_has_the_methods_of_its_legal_edges_and_no_others(header: Path) -> None:
    """Of several individuals that a transition moves, the first parameter's handle has the method."""
    lines = ["using namespace tokenspeed;"]
    legal = 0
    for t in SPEC.transitions.values():
        if not t.moves:
            continue
        lines.append(f"template <class H> concept has_{t.name} = requires {{ &H::{t.name}; }};")
        order = [p.type for p in t.parameters]
        first = min(t.moves, key=lambda m: order.index(m.machine.sorts[0].name))
        for sort, machine in machines().items():
            for value in SPEC.enums[machine.type].values:
                may = machine is first.machine and value in first.sources
                legal += may
                handle = f"{sort}Handle<{machine.type}::{camel(value)}>"
                lines.append(f"static_assert({'' if may else '!'}has_{t.name}<{handle}>);")
    assert errors_of("\n".join(lines), header) == []
    assert legal >= len({t.name for t in SPEC.transitions.values() if t.moves})
    flipped = "\n".join(lines).replace("static_assert(!", "static_assert(", 1)
    assert "static assertion failed" in errors_of(flipped, header)[0]


@pytest.fixture(scope="module")
def program(header: Path) -> Path:
    """Lives of a request and a block, in the checked build."""
    source = header.parent / "lives.cpp"
    source.write_text(
        '#include <cstring>\n#include "scheduler/generated/handles.h"\n'
        + "".join(p.read_text() for p in PASS if p.stem in ("life_of_a_block", "life_of_a_request"))
        + """
void tokenspeed::Machine::recheck() const {}  // what machine_check.cpp does is tested elsewhere

int main(int, char** arguments) {
  Limits limits;
  limits.page = 4;
  limits.blocks = 2;
  limits.room = 8;
  Machine machine(limits);
  if (life_of_a_request(machine, 3, 5, 1) != Guard::none) return 10;
  auto request = RequestHandle<RequestState::Absent>::claim(machine, 0);
  if (!request || RequestHandle<RequestState::Waiting>::claim(machine, 0)) return 11;
  auto refused = std::move(*request).submit(machine, 5, 5, 2);
  if (refused || kGuardNames[static_cast<std::size_t>(refused.guard())] != "submit:room for output") return 12;
  auto waiting = std::move(refused).same().submit(machine, 3, 5, 2);
  if (!waiting) return 13;
  auto running = std::move(waiting).next().admit(machine);
  if (!running) return 14;
  auto block = BlockHandle<BlockState::Free>::claim(machine, 0);
  auto owned = std::move(*block).allocate(machine, running ? 0 : 1);
  if (!owned) return 15;
  const RequestId left = std::move(running).next().leave();
  if (std::strcmp(arguments[1], "drop") == 0) return left;
  return std::move(owned).next().leave() == 0 && machine.blocks(left) == 1 ? 0 : 16;
}
"""
    )
    built = header.parent / "lives"
    code = [str(SCHEDULER / "generated" / name) for name in ("machine.cpp", "machine_ghosts.cpp")]
    command = [CXX, *FLAGS, "-O0", "-DTOKENSPEED_CHECKED=1", str(source), *code, "-o", str(built)]
    subprocess.run(command, check=True)
    return built


def test_lives_run_and_refusals_give_the_handle_back(program: Path) -> None:
    assert subprocess.run([str(program), "leave"], check=False).returncode == 0


def test_dropping_a_live_handle_ends_the_checked_build(program: Path) -> None:
    result = subprocess.run([str(program), "drop"], capture_output=True, text=True, check=False)
    assert result.returncode < 0
    assert "a live handle of individual 0 was dropped; move it on or call leave()" in result.stderr
