"""Lines of a generated file: indented by blocks, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

WIDTH = 120
BREAK = re.compile(r"&& |\|\| |, ")


class Writer:
    """Collects lines. `unit`: the indentation of one block."""

    def __init__(self, unit: str = "    ") -> None:
        self.unit, self.depth, self._lines = unit, 0, list[str]()

    def line(self, *texts: str) -> None:
        """Lines at the present depth; empty ones stay empty."""
        for text in texts:
            self._lines += [part for line in text.split("\n") for part in self._wrapped(line)]

    def _wrapped(self, line: str) -> list[str]:
        """A line that is too long is broken after && or || or a comma, unless it has a comment or text."""
        indent, found = self.unit * self.depth, list[str]()
        while line and len(indent) + len(line) > WIDTH and "//" not in line and '"' not in line:
            breaks = [m.end() for m in BREAK.finditer(line) if len(indent) + m.end() <= WIDTH + 1]
            if not breaks:
                break
            found.append(indent + line[: breaks[-1]].rstrip())
            line, indent = line[breaks[-1] :], self.unit * (self.depth + 2)
        return [*found, f"{indent}{line}" if line else ""]

    def fits(self, line: str) -> bool:
        """Whether the line is short enough here."""
        return len(self.unit) * self.depth + len(line) <= WIDTH

    def wrapped(self, head: str, items: Iterable[str], end: str) -> None:
        """A list with one item a line, each followed by a comma."""
        with self.block(head, end):
            self.line(*[f"{item}," for item in items])

    @contextmanager
    def block(self, head: str, end: str = "}") -> Iterator[None]:
        """What is written until the block ends stands one step deeper, between the head and the end."""
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1
        self.line(*[end] if end else [])

    @contextmanager
    def only_if(self, condition: str) -> Iterator[None]:
        """An island of the preprocessor."""
        self._lines.append(f"#if {condition}")
        yield
        self._lines.append("#endif")

    def text(self) -> str:
        """The file."""
        return "\n".join(self._lines) + "\n"


def widened(text: str) -> str:
    """Text that is indented by two spaces, indented by four as hand-written C++ is."""
    return re.sub("^ +", lambda spaces: 2 * spaces[0], text, flags=re.M)


__all__ = ["Writer", "widened"]
