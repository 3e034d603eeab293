"""Builds the C++ programs in programs/ with the scheduler's own objects, in the build folder of this checkout."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pybind11
import pytest

from tokenspeed.spec.conform.binary import SCHEDULER

Build = Callable[[str], Path]


def cxx_compiler() -> str:
    """The compiler that CMake used for this checkout, or the one that it would find."""
    for cache in sorted((SCHEDULER.parent / "build").glob("*/CMakeCache.txt")):
        found = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache.read_text(), re.MULTILINE)
        if found and shutil.which(found[1]):
            return found[1]
    return shutil.which("c++") or "g++"


def cmake() -> str:
    """The one beside this Python, or that of the system."""
    return shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "cmake"


def build_folder() -> Path:
    """Where this Python's modules were built, or a folder of its own that is configured now."""
    build = SCHEDULER.parent / "build"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-*/CMakeCache.txt"
    found = sorted(build.glob(tag), key=lambda path: path.stat().st_mtime)
    if found:
        return found[-1].parent
    options = [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([cmake(), "-S", SCHEDULER.parent, "-B", build / "programs", *options], check=True)
    return build / "programs"


@pytest.fixture(scope="session")
def compiler() -> str:
    """The C++ compiler of this checkout."""
    return cxx_compiler()


@pytest.fixture(scope="session")
def build_program() -> Build:
    """Name of a program in CMakeLists.txt -> binary, of the sources as they are now."""

    def build_program(name: str) -> Path:
        (SCHEDULER.parent / "build").mkdir(exist_ok=True)
        with (SCHEDULER.parent / "build" / "programs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one test run share the folder
            folder = build_folder()
            command = [cmake(), "--build", str(folder), "--target", name, "-j2"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / name

    return build_program
