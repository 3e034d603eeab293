"""Compiles the C++ programs in programs/ with the scheduler's own sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenspeed.spec.conform.binary import SCHEDULER

Compile = Callable[..., Path]


def cxx_compiler() -> str:
    """The compiler that CMake used for this checkout, or the one that it would find."""
    for cache in sorted((SCHEDULER.parent / "build").glob("*/CMakeCache.txt")):
        found = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache.read_text(), re.MULTILINE)
        if found and shutil.which(found[1]):
            return found[1]
    return shutil.which("c++") or "g++"


@pytest.fixture(scope="session")
def compile_program(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """(name in programs/, with the scheduler's sources or not, more flags) -> binary."""

    def compile_program(name: str, scheduler: bool, *more: str) -> Path:
        sources = []
        if scheduler:
            sources = [p for folder in (SCHEDULER, SCHEDULER / "generated") for p in sorted(folder.glob("*.cpp"))]
            for module in ("bindings.cpp", "state_machine.cpp"):  # these need Python
                sources.remove(SCHEDULER / module)
        binary = tmp_path_factory.mktemp("programs") / name
        program = Path(__file__).parent / "programs" / f"{name}.cpp"
        flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SCHEDULER}", *more]
        command = [cxx_compiler(), *flags, str(program), *map(str, sources), "-o", str(binary)]
        subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C"})
        return binary

    return compile_program
