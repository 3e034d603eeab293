"""Writes everything that is generated from the specification: `python -m tokenspeed.spec.generate`.

C++ for the scheduler and the explorer, and the reference pages and diagrams of the docs. Run it after every change
of the machines; CI fails if it would change a byte. Needs neither a compiler nor the compiled modules.
"""

from __future__ import annotations

from pathlib import Path

from .diagram import diagrams
from .generate_access import machine_access
from .generate_explorer import ExplorerGenerator
from .generate_handles import HandleGenerator
from .generate_replay import ReplayGenerator
from .generate_scheduler import SchedulerGenerator
from .machines import SPEC
from .reference_page import reference_page


def generated_files() -> dict[str, str]:
    """Path within the repository -> content."""
    files = {f"scheduler/generated/{name}": text for name, text in SchedulerGenerator(SPEC).files().items()}
    files |= {f"spec/explorer/generated/{name}": text for name, text in ExplorerGenerator(SPEC).files().items()}
    files["scheduler/generated/machine_access.cpp"] = machine_access(SPEC)
    files["scheduler/generated/handles.h"] = HandleGenerator(SPEC).handles_h()
    files["spec/replay/generated/monitor.h"] = ReplayGenerator(SPEC).monitor_h()
    files["docs/spec/reference.md"] = reference_page(SPEC)
    files |= {f"docs/spec/{machine}.mmd": text for machine, text in diagrams(SPEC).items()}
    files["docs/spec/canonical.txt"] = SPEC.canonical()
    return files


def main() -> None:
    """Write the files below the repository that contains this package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").exists():
        raise SystemExit(f"{root} is no checkout of the repository; generate from a clone")
    for name, text in generated_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
