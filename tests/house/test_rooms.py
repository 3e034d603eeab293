"""The house keeps its measure: small rooms, small files, and no import circle anywhere."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("spec", "engine", "scheduler", "kernels", "simulator")
MOST_FILES = 10
MOST_LINES = 460


def committed(*patterns: str) -> list[Path]:
    """Paths of the repository that git knows, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("no git history here: what is committed cannot be told from what was built")
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("package", ["spec", "engine"])
def test_rooms_are_small(package: str) -> None:
    rooms: dict[Path, int] = {}
    for path in committed(package):
        if path.name != "__init__.py" and "generated" not in path.parts:
            rooms[path.parent] = rooms.get(path.parent, 0) + 1
    assert {str(room): n for room, n in rooms.items() if n > MOST_FILES} == {}


def test_files_written_by_hand_are_short() -> None:
    sources = [p for p in committed(*PACKAGES, "*.py") if p.suffix in (".py", ".cpp", ".h") and "tests" not in p.parts]
    lengths = {str(p): len((ROOT / p).read_text().splitlines()) for p in sources if "generated" not in p.parts}
    lengths = {name: n for name, n in lengths.items() if n > MOST_LINES}
    assert {name: n for name, n in lengths.items() if not name.endswith("_core.pyi")} == {}


def test_every_room_says_what_it_is() -> None:
    for path in committed(*(f"{package}/**/__init__.py" for package in PACKAGES)):
        assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} has no docstring"


def module_name(path: Path) -> str:
    """tokenspeed.spec.language.spec, or the package for an __init__.py."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules of ours that a file imports when it runs, late imports included; not those for type checkers alone."""
    tree = ast.parse((ROOT / path).read_text())
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in unseen or not node.level:
            continue
        base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
        for alias in node.names:
            inner_name = ".".join([*base, alias.name])
            yield inner_name if inner_name in modules else ".".join(base)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_no_import_circle() -> None:
    paths = committed(*(f"{package}/*.py" for package in PACKAGES), *(f"{package}/**/*.py" for package in PACKAGES))
    modules = {module_name(path): path for path in paths}
    graph = {
        name: {other for other in imports(path, modules) if other in modules and other != name}
        for name, path in modules.items()
    }
    # A package's __init__ gathers what its rooms offer: what its own modules import of it is no circle of subjects.
    own = {
        name: {o for o in graph[name] if not (name.startswith(o + ".") or o.startswith(name + "."))} for name in graph
    }
    assert circles(own) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
