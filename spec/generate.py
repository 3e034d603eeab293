"""Writes everything that is generated from the specification: `python -m tokenspeed.spec.generate`.

C++ for the scheduler and the explorer, and the reference pages and diagrams of the docs. Run it after every change
of the machines; CI fails if it would change a byte. Needs neither a compiler nor the compiled modules, except for the
museum, whose timelines the compiled explorer finds: it is written when the explorer is of this specification.
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


def museum() -> dict[str, str]:
    """Path within the repository -> content, for the museum; empty if the explorer has to be rebuilt first."""
    try:
        from .explore import compiled_from
        from .museum.page import museum_files
    except ImportError:
        return {}
    return museum_files(SPEC) if compiled_from(SPEC) else {}


def main() -> None:
    """Write the files below the repository that contains this package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "pyproject.toml").exists():
        raise SystemExit(f"{root} is no checkout of the repository; generate from a clone")
    exhibits = museum()
    if not exhibits:
        print("docs/museum.md is left as it is: rebuild (`make setup`), then generate again")
    for name, text in {**generated_files(), **exhibits}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
