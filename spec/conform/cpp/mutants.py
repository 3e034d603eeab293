"""Damages the generated C++ text in small ways and counts what translation validation notices: `make binary-mutants`.

Every line of code of the generated files is left out once; in both .cpp files every token is changed in the ways in
which the mutants of the specification are (negate, off by one, swap state), and some more. A damaged text is noticed
by the parser, by the comparison of declarations or structure, or by z3. If z3 proves that it still does what the
specification says, it is no error of the check: such a text is counted as proved to do the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from ...language.spec import Spec
from ...system import SPEC
from ..translation import Sources, Validation, read, read_code, validate, validate_transition
from .declarations import Unit, read_unit
from .frame import check_frame
from .layout import Layout, read_layout
from .parser import show
from .tokens import TOKEN, CppError

NOTICED = ("parser", "declarations", "structure", "z3")
SAME, MISSED = "proved to do the same", "NOT NOTICED"


NAMES = {"code": "machine.cpp", "ghosts": "machine_ghosts.cpp", "header": "machine.h"}


@dataclass(frozen=True)
class Damage:
    """One changed text: the operator, the file (see NAMES), the line number and that line as it was and is."""

    operator: str
    file: str
    line: int
    before: str
    after: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.operator} {NAMES[self.file]}:{self.line}: {self.before.strip()}" + (
            "" if self.after is None else f"  ->  {self.after.strip()}"
        )


def is_code(line: str) -> bool:
    """Neither blank nor a comment alone."""
    return bool(line.strip()) and not line.strip().startswith("//")


def deletions(text: str, file: str) -> Iterator[Damage]:
    """Every line of code left out."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if is_code(line):
            yield Damage("delete", file, i + 1, line, None, "\n".join([*lines[:i], *lines[i + 1 :]]))


COMPARISONS = {"<": "<=", "<=": "<", "==": "!=", "!=": "==", ">=": ">", ">": ">="}
SIGNS = {"+": "-", "-": "+", "++": "--", "&&": "||", "||": "&&"}
WORDS = {"true": "false", "false": "true"}


def changes(layout: Layout, text: str, file: str) -> Iterator[Damage]:
    """Every token of a .cpp file changed in every way that applies to it."""
    lines = text.split("\n")
    enums = {name: e.values for name, e in layout.unit.enums.items()}
    fields = _fields_of_one_type(layout)
    parameters: dict[str, str] = {}
    for i, line in enumerate(lines):
        head = re.match(r"\w+ Machine::\w+\((.*)\) \{", line)
        if head:
            parameters = {p.split()[-1]: p.split()[0] for p in head[1].split(", ") if p}
        if not is_code(line) or line.startswith("#"):
            continue
        for operator, start, end, new in _token_changes(line, enums, fields, parameters):
            changed = line[:start] + new + line[end:]
            yield Damage(operator, file, i + 1, line, changed, "\n".join([*lines[:i], changed, *lines[i + 1 :]]))


def _fields_of_one_type(layout: Layout) -> dict[str, str]:
    """Field -> the next field of the same record that has the same type."""
    found: dict[str, str] = {}
    for structure in layout.unit.structures.values():
        if structure is layout.machine:
            continue
        by_type: dict[str, list[str]] = {}
        for field in structure.fields.values():
            by_type.setdefault(field.type, []).append(field.name)
        for names in by_type.values():
            if len(names) > 1:
                found |= dict(zip(names, [*names[1:], names[0]], strict=True))
    return found


def _token_changes(
    line: str, enums: dict[str, tuple[str, ...]], fields: dict[str, str], parameters: dict[str, str]
) -> Iterator[tuple[str, int, int, str]]:
    """(operator, start, end, new text) of each change."""
    tokens = [m for m in TOKEN.finditer(line) if m.lastgroup != "space"]
    for at, m in enumerate(tokens):
        word, before = m[0], tokens[at - 1][0] if at else ""
        after = tokens[at + 1][0] if at + 1 < len(tokens) else ""
        if m.lastgroup == "number":
            yield "off by one", m.start(), m.end(), str(int(word) + 1)
        elif word in COMPARISONS and before != "static_cast" and not (word == ">" and "static_cast" in line):
            yield "compare", m.start(), m.end(), COMPARISONS[word]
        elif word in SIGNS:
            yield "operator", m.start(), m.end(), SIGNS[word]
        elif word in WORDS:
            yield "negate", m.start(), m.end(), WORDS[word]
        elif word == "!":
            yield "negate", m.start(), m.end(), ""
        elif before == "::" and tokens[at - 2][0] in enums and word in enums[tokens[at - 2][0]]:
            values = enums[tokens[at - 2][0]]
            yield "swap state", m.start(), m.end(), values[(values.index(word) + 1) % len(values)]
        elif before == "." and word in fields:
            yield "swap field", m.start(), m.end(), fields[word]
        elif word in parameters and before in ("[", "(", ",", "{", "") and after in ("]", ")", ",", "}", ""):
            for other, type_ in parameters.items():
                if other != word and type_ == parameters[word]:
                    yield "swap parameter", m.start(), m.end(), other
        if word == "=" and m.lastgroup == "sign" and line.rstrip().endswith(";"):
            yield "one more", len(line.rstrip()) - 1, len(line.rstrip()) - 1, " + 1"


class Judge:
    """Says who notices a damaged text; functions that are as they were are not proved again."""

    def __init__(self, spec: Spec, sources: Sources) -> None:
        self.spec, self.sources = spec, sources
        self.layouts: dict[bool, Layout] = {}
        self.bodies: dict[bool, dict[str, str]] = {}
        self.codes: dict[bool, Unit] = {}
        for checked in (False, True):
            layout, code = read(spec, sources, checked)
            self.layouts[checked], self.bodies[checked], self.codes[checked] = layout, _bodies(code), code

    def judge(self, damage: Damage) -> str:
        """One of NOTICED, SAME or MISSED."""
        if damage.file == "header":
            return self.judge_header(damage)
        changed = False
        for checked, layout in self.layouts.items():
            try:
                code = read_code(replace(self.sources, **{damage.file: damage.text}), checked)
            except CppError:
                return "parser"
            bodies = _bodies(code)
            if bodies == self.bodies[checked] and _rest(code) == "":
                continue
            found = check_frame(layout, code, checked)
            if found:
                return found[0].by
            for t in self.spec.transitions.values():
                names = (f"Machine::apply_{t.name}", f"Machine::ghost_{t.name}")
                if any(bodies.get(name) != self.bodies[checked].get(name) for name in names):
                    changed = True
                    problems = validate_transition(layout, code, t, checked, Validation())
                    if problems:
                        return problems[0].by
        return SAME if changed else MISSED

    def judge_header(self, damage: Damage) -> str:
        """The same for a damaged machine.h; everything is proved again if its declarations seem right."""
        for checked, code in self.codes.items():
            try:
                header = read_unit(damage.text, "machine.h", checked)
            except CppError:
                return "parser"
            layout = read_layout(self.spec, header, self.sources.ids)
            found = layout.findings or check_frame(layout, code, checked)
            if found:
                return found[0].by
        result = validate(self.spec, replace(self.sources, header=damage.text))
        return result.findings[0].by if result.findings else MISSED


def _bodies(code: Unit) -> dict[str, str]:
    shown = {name: f"{f.signature} {f.starts and show(tuple(f.starts))} {f.body}" for name, f in code.functions.items()}
    return shown | {"includes": str(code.source.includes)}


def _rest(code: Unit) -> str:
    """Declarations that machine.cpp does not have."""
    return " ".join([*code.enums, *code.constants, *code.structures, *code.names])


# The run over all of them.

_state: list[tuple[Judge, list[Damage]]] = []


def every_damage(spec: Spec, sources: Sources) -> list[Damage]:
    """All of them, in a fixed order: lines left out first."""
    layout, _ = read(spec, sources, False)
    texts = {file: getattr(sources, file) for file in NAMES}
    found = [damage for file, text in texts.items() for damage in deletions(text, file)]
    return found + [damage for file in ("code", "ghosts") for damage in changes(layout, texts[file], file)]


def _judge(number: int, sources: Sources) -> str:
    if not _state:
        _state.append((Judge(SPEC, sources), every_damage(SPEC, sources)))
    judge, damages = _state[0]
    return judge.judge(damages[number])


def judge_all(sources: Sources, every: int = 1, lines_only: bool = False) -> list[tuple[Damage, str]]:
    """The verdict about each (or each `every`-th) damaged text, with one process for each core."""
    damages = every_damage(SPEC, sources)
    chosen = [i for i in range(0, len(damages), every) if damages[i].operator == "delete" or not lines_only]
    context = multiprocessing.get_context("spawn")  # z3 does not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        verdicts = list(pool.map(_judge, chosen, [sources] * len(chosen), chunksize=16))
    return [(damages[i], verdict) for i, verdict in zip(chosen, verdicts, strict=True)]


def table(results: Sequence[tuple[Damage, str]]) -> dict[str, dict[str, int]]:
    """Operator and file -> verdict -> number."""
    counts: dict[str, Counter[str]] = {}
    for damage, verdict in results:
        name = damage.operator if damage.file == "code" else f"{damage.operator} ({NAMES[damage.file]})"
        counts.setdefault(name, Counter())[verdict] += 1
    return {name: dict(count) for name, count in counts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge every damaged text and print who notices. The exit status is 1 if one is not noticed."""
    from ..binary import generated_sources

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="judge each N-th only")
    parser.add_argument("--lines", action="store_true", help="leave out lines only, change no tokens")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    results = judge_all(generated_sources(), options.every, options.lines)
    counts = table(results)
    left = [(d, v) for d, v in results if v not in NOTICED]
    if options.json:
        print(
            json.dumps(
                {"spec": SPEC.digest(), "counts": counts, "not noticed": [f"{v}: {d}" for d, v in left]}, indent=2
            )
        )
    else:
        columns = [*NOTICED, SAME, MISSED]
        print(f"{'':26}" + "".join(f"{c:>{len(c) + 2}}" for c in columns))
        for name, count in counts.items():
            print(f"{name:26}" + "".join(f"{count.get(c, 0):>{len(c) + 2}}" for c in columns))
        for damage, verdict in left:
            print(f"{verdict}: {damage}")
        caught = sum(v in NOTICED for _, v in results)
        same = sum(v == SAME for _, v in results)
        missed = len(results) - caught - same
        print(f"{len(results)} damaged texts: {caught} noticed, {same} proved to do the same, {missed} missed.")
    return int(any(v == MISSED for _, v in results))


if __name__ == "__main__":
    sys.exit(main())
