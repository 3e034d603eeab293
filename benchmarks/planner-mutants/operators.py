"""Small faults of C++ text, one at a time: comparisons, signs, connectives, constants, calls, and lines left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SWAPS = {
    "comparison": {
        " < ": [" <= "], " <= ": [" < "], " > ": [" >= "], " >= ": [" > "], " == ": [" != "], " != ": [" == "],
    },
    "sign": {" + ": [" - "], " - ": [" + "], "++": ["--"], "--": ["++"], " += ": [" -= "], " -= ": [" += "]},
    "connective": {" && ": [" || "], " || ": [" && "]},
    "constant": {"true": ["false"], "false": ["true"]},
    "call": {
        "std::min": ["std::max"], "std::max": ["std::min"], ".front()": [".back()"], ".back()": [".front()"],
        "rbegin": ["begin"], "rend": ["end"], "planned(": ["computed("], "computed(": ["planned("],
        "known(": ["limit("], "apply_prefill_last": ["apply_prefill"], "Shared": ["Cached"], "Cached": ["Shared"],
    },
}  # fmt: skip
"""Operator -> text -> what may stand there instead. What does not compile is counted apart."""

NUMBER = re.compile(r"(?<![\w.])(\d+)(?![\w.])")
CONDITION = re.compile(r"(\bif \(|\bwhile \()(.*)(\).*)$")
STATEMENT = re.compile(r"^\s+[\w:.\[\]>(*&+-].*;$")
"""A line that is one statement."""
KEPT = re.compile(
    r"^\s+(const |auto |return\b|using |static |struct |std::\w+<|\w+ \w+;|\w+& \w+ =|throw |break|continue)"
)
"""Statements without which nothing compiles, or which have an operator of their own."""
DEFECTS_ONLY = ("check", "restore")
FILES_LEFT = ("recovery.cpp", "fingerprint.cpp")
"""Functions and files that run only to find, or after, a defect."""


@dataclass(frozen=True)
class Mutant:
    """A file with one line changed. `number` names it within one state of the sources."""

    number: int
    operator: str
    file: str
    line: int
    before: str
    after: str

    def text(self, root: Path) -> str:
        """The whole changed file."""
        lines = (root / self.file).read_text().split("\n")
        assert lines[self.line - 1] == self.before
        return "\n".join([*lines[: self.line - 1], self.after, *lines[self.line :]])


def changes(line: str) -> Iterator[tuple[str, str]]:
    """(operator, changed line)."""
    code, comment, rest = line.partition("//")
    for operator, swaps in SWAPS.items():
        for old, news in swaps.items():
            for found in re.finditer(re.escape(old), code):
                for new in news:
                    yield operator, code[: found.start()] + new + code[found.end() :] + comment + rest
    for found in NUMBER.finditer(code):
        value = int(found[1])
        for new in sorted({value + 1, max(0, value - 1)} - {value}):
            yield "constant", code[: found.start()] + str(new) + code[found.end() :] + comment + rest
    condition = CONDITION.search(code)
    if condition is not None and condition[2].count("(") == condition[2].count(")"):
        yield "negate", code[: condition.start(2)] + f"!({condition[2]})" + code[condition.end(2) :]
    if STATEMENT.match(code.rstrip()) and not KEPT.match(code):
        yield "leave out", ""


def mutants(root: Path) -> list[Mutant]:
    """All of the hand-written sources of the scheduler, in order."""
    found: list[Mutant] = []
    for path in sorted((root / "scheduler/core").rglob("*.cpp")):
        function = ""
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if head := re.match(r"^\S.*?(\w+)\(.*\{$", line):
                function = head[1]
            text = "throw" in line or "expect(" in line or line.lstrip().startswith(("#", "//", '"'))
            if text or function in DEFECTS_ONLY or path.name in FILES_LEFT or not line.startswith("    "):
                continue
            file = path.relative_to(root).as_posix()
            for operator, after in changes(line):
                found.append(Mutant(len(found), operator, file, number, line, after))
    return found
