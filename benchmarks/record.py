"""What every result of a benchmark says of itself: hardware, software, command, commit and specification.

`make bench-NAME` puts this folder on the path, so that a benchmark says `from record import write`. A result that does
not know its commit is not written.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "simpy", "torch", "triton", "transformers", "z3-solver", "cvc5")
"""Whose versions are recorded, if they are installed."""
FIELDS = ("hardware", "software", "command", "commit", "specification", "date", "load")
"""What a result says of itself, beside its figures."""

_LOAD_AT_START = os.getloadavg()[0]


def hardware() -> dict[str, object]:
    """Processor, the cores that this process may use, memory (GiB), and the GPUs with their drivers."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
    }


def software() -> dict[str, str]:
    """System, interpreter, compiler, and the packages that figures depend on."""
    found = {"system": platform.system(), "python": platform.python_version()}
    if compiler := _said_by("c++", "--version"):
        found["compiler"] = compiler[0]
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this tree, `-dirty` if it was edited; TOKENSPEED_COMMIT where the tree is a copy without history.

    Raises SystemExit if neither is known.
    """
    said = os.environ.get("TOKENSPEED_COMMIT") or "".join(_said_by("git", "describe", "--always", "--dirty")[:1])
    if not said:
        raise SystemExit(f"{ROOT} has no git history: set TOKENSPEED_COMMIT to the commit that it is a copy of")
    return said


def specification() -> str:
    """The hash of the specification that this tree's drivers are written for; nothing has to be built to read it."""
    contract = (ROOT / "scheduler" / "generated" / "contract.py").read_text()
    return contract.partition('CONTRACT_HASH = "')[2].partition('"')[0]


def record(command: str | None = None) -> dict[str, object]:
    """The fields that describe a result. `command`: how to measure again; by default how this process was started."""
    return {
        "hardware": hardware(),
        "software": software(),
        "command": command or _own_command(),
        "commit": commit(),
        "specification": specification(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load": {"before": _LOAD_AT_START, "after": os.getloadavg()[0]},
    }


def write(path: Path, figures: Mapping[str, object], command: str | None = None) -> None:
    """Write a result as JSON, its record first. Raises ValueError if a figure has the name of a field of the record."""
    described = record(command)
    if clash := sorted(set(figures) & set(described)):
        raise ValueError(f"figures named {', '.join(clash)} would hide what the record says; give them other names")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**described, **figures}, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def _cpu() -> str:
    """The processor's name; on machines that give none, its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU that the driver reports."""
    return _said_by("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def _own_command() -> str:
    """How this process was started: paths of the repository from its root, of others only the last part."""
    program = Path(sys.argv[0]).resolve()
    folder = program.parent if program.name == "__main__.py" else program
    name = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else Path(folder.name)
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return shlex.join(["python", str(name), *arguments])


def _said_by(*command: str) -> list[str]:
    """The lines that a command prints; none if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
