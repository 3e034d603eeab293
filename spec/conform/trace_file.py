"""Reads trace files (`.tstrace`) and replays them: is what a scheduler did a behaviour of the specification?

docs/trace-format.md describes every byte. Nothing of the scheduler that wrote the file is used.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..language.expressions import BOOL, Expr, children, to_text
from ..language.spec import Spec, Transition, Variable
from ._replay import SPEC_HASH, Replay, Stop

MAGIC = b"TSTRACE\n"
VERSION = 1
RECORD = 16
EVERYTHING = 2**62
MOST_INDIVIDUALS = 2**24
"""Of a sort of which all exist from the start."""
CONTEXT = 20
"""Events that are shown up to the bad one, which is the last."""


class TraceFileError(ValueError):
    """The file is not a complete trace of this specification; the message gives the offset in bytes."""


@dataclass(frozen=True)
class Followed:
    """An event of the trace: who acted, what changed (by individual), and the guards that refuse it."""

    event: str
    actor: str
    changes: dict[str, tuple[str, ...]]
    ignored_guards: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What the file says of the machine before the first event. `size`: bytes of the header."""

    size: int
    constants: dict[str, int]
    sorts: dict[str, int | None]


@dataclass
class Verdict:
    """What a replay found. `false` is empty if the trace is a behaviour of the specification.

    `number`: the first bad event, counted from 0; all before it are allowed. `event` is its text, `guard` the name of
    the false guard, `values` what the guard reads there, `names` the individuals that take part, `context` the last
    events up to it. If all events are allowed but the end is wrong, `event` is empty and `false` says what differs.
    """

    events: int
    seconds: float
    false: str = ""
    number: int = -1
    offset: int = -1
    event: str = ""
    guard: str = ""
    values: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    context: list[Followed] = field(default_factory=list)


def read_header(data: mmap.mmap | bytes, spec: Spec) -> Header:
    """Raises TraceFileError unless a trace of this specification begins here."""
    if len(data) < 16 or data[:8] != MAGIC:
        raise TraceFileError("offset 0: the file does not begin with the magic bytes of a trace")
    version, length = struct.unpack_from("<II", data, 8)
    if version != VERSION:
        raise TraceFileError(f"offset 8: the format has version {version}, this program reads version {VERSION}")
    if 16 + length > len(data):
        raise TraceFileError(f"offset 12: the header has {length} bytes, but the file ends before")
    fields = _json(data, 16, length, "header")
    recorded = fields.get("spec")
    if recorded != spec.digest() or recorded != SPEC_HASH:
        raise TraceFileError(
            f"offset 16: the scheduler followed specification {str(recorded)[:16]}, this program checks "
            f"{spec.digest()[:16]}; use the version of tokenspeed that recorded the file"
        )
    limits = fields.get("limits")
    if not isinstance(limits, dict) or not all(type(x) is int and 0 <= x < 2**48 for x in limits.values()):
        raise TraceFileError(f"offset 16: the header's limits are {limits}, which are not numbers from 0 to 2^48")
    missing = sorted({c.lower() for c in spec.constants} - set(limits))
    if missing:
        raise TraceFileError(f"offset 16: the header's limits lack {', '.join(missing)}")
    return Header(16 + length, {c: limits[c.lower()] for c in spec.constants}, _individuals(spec, limits))


def _individuals(spec: Spec, limits: dict[str, int]) -> dict[str, int | None]:
    """How many individuals each sort has; None where the trace brings new ones up."""
    sizes = {sort: spec.size(sort) for sort in spec.sorts}
    found = {
        s: limits.get(f"{s.lower()}_records") if size is None else limits[size.lower()] for s, size in sizes.items()
    }
    for sort, count in found.items():
        if count is not None and count > MOST_INDIVIDUALS:
            raise TraceFileError(f"offset 16: the header has {count} individuals of {sort}, a trace at most 2^24")
    return found


def _json(data: mmap.mmap | bytes, at: int, length: int, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(data[at : at + length])
    except ValueError:
        raise TraceFileError(f"offset {at}: the {what} is no JSON") from None
    if not isinstance(fields, dict):
        raise TraceFileError(f"offset {at}: the {what} is no JSON object")
    return fields


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


class Validator:
    """Replays one file. Raises TraceFileError if it is not a complete trace of this specification, OSError if it cannot
    be read."""

    def __init__(self, spec: Spec, path: Path) -> None:
        self.spec, self.path = spec, path

    def run(self) -> Verdict:
        """Replay the whole file, or up to the first bad event."""
        with _mapped(self.path) as data:
            header = read_header(data, self.spec)
            with memoryview(data) as whole, whole[header.size :] as records:
                started = time.perf_counter()
                replay = Replay(header.constants, header.sorts)
                stop = replay.run(records, EVERYTHING)
                verdict = Verdict(stop.event, time.perf_counter() - started)
                offset = header.size + RECORD * stop.record
                if stop.reason == "guard":
                    self._explain(verdict, stop, header, records)
                    verdict.offset = offset
                elif stop.reason == "close":
                    self._compare_end(verdict, replay, data, offset)
                else:
                    raise TraceFileError(self._incomplete(stop, offset, len(data)))
        return verdict

    def _incomplete(self, stop: Stop, offset: int, size: int) -> str:
        before = f"the {stop.event:,} events before are allowed"
        if stop.reason == "lost":
            return f"offset {offset}: {int(stop.detail):,} events were lost here, from event {stop.event} on; {before}"
        if stop.reason == "end":
            left = (size - offset) % RECORD
            cut = f" in the middle of a record ({left} bytes)" if left else ""
            return f"offset {offset}: the file ends{cut} without its closing record; {before}"
        return f"offset {offset}: event {stop.event} is damaged: {stop.detail}; {before}"

    def _compare_end(self, verdict: Verdict, replay: Replay, data: mmap.mmap | bytes, offset: int) -> None:
        (length,) = struct.unpack_from("<I", data, offset + 4)
        if offset + RECORD + length != len(data):
            raise TraceFileError(
                f"offset {offset + 4}: the closing text has {length} bytes, but {len(data) - offset - RECORD} follow"
            )
        footer = _json(data, offset + RECORD, length, "closing text")
        digests = replay.digests()
        recorded = {k: v for k, v in footer.get("state", {}).items() if v}
        different = sorted(k for k in recorded.keys() | digests.keys() if recorded.get(k) != digests.get(k))
        wrong = replay.wrong_count()
        if footer.get("events") != verdict.events:
            verdict.false = f"the scheduler took {footer.get('events')} events, the file has {verdict.events}"
        elif different:
            verdict.false = f"the scheduler ended in another state: {', '.join(different)} differ"
        elif wrong:
            verdict.false = f"the counter {wrong} is not what it counts"

    def _explain(self, verdict: Verdict, stop: Stop, header: Header, records: memoryview) -> None:
        """Replay once more up to the bad event, and collect what the last events before it changed."""
        transition = self.spec.transitions[stop.transition]
        guard = next(g for g in transition.guards if stop.detail == f"{transition.name}:{g.name}")
        verdict.number, verdict.guard, verdict.false = stop.event, guard.name, to_text(guard.condition)
        verdict.event = self._text(transition, stop.arguments)
        verdict.names = self._names(transition, stop.arguments)
        replay = Replay(header.constants, header.sorts)
        replay.run(records, max(0, stop.event - CONTEXT + 1))
        while replay.events < stop.event:
            taken = replay.run(records, 1, changes=True)
            before = self.spec.transitions[taken.transition]
            verdict.context.append(Followed(self._text(before, taken.arguments), before.actor, self._changes(replay)))
        verdict.context.append(Followed(verdict.event, transition.actor, {}, (guard.name,)))
        values = replay.values()
        individuals = dict(zip((p.name for p in transition.parameters), stop.arguments, strict=True))
        for read in _reads(guard.condition):
            index = tuple(individuals[str(i.args[0])] for i in read.args[1:])
            verdict.values[self._place(read.args[0], index)] = self._value(
                read.args[0], values.get((read.args[0].name, index), 0)
            )

    def _changes(self, replay: Replay) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for name, index, _, after in replay.take_changes():
            variable = self.spec.variables[name]
            if variable.ghost:
                continue
            owner = f"{variable.sorts[0].letter}{index[0]}" if index else ""
            others = "".join(f" {s.letter}{i}" for s, i in zip(variable.sorts[1:], index[1:], strict=True))
            found.setdefault(owner, []).append(f"{name}{others}={self._value(variable, after)}")
        return {owner: tuple(texts) for owner, texts in found.items()}

    def _names(self, transition: Transition, arguments: list[int]) -> tuple[str, ...]:
        """The individuals among the arguments."""
        sorts = self.spec.sorts
        pairs = zip(transition.parameters, arguments, strict=True)
        return tuple(f"{sorts[p.type].letter}{x}" for p, x in pairs if p.type in sorts)

    def _text(self, transition: Transition, arguments: list[int]) -> str:
        sorts = self.spec.sorts
        shown = [
            f"{sorts[p.type].letter}{x}" if p.type in sorts else f"{p.name}={x}"
            for p, x in zip(transition.parameters, arguments, strict=True)
        ]
        return f"{transition.name}({', '.join(shown)})"

    def _place(self, variable: Variable, index: tuple[int, ...]) -> str:
        shown = ", ".join(f"{s.letter}{i}" for s, i in zip(variable.sorts, index, strict=True))
        return f"{variable.name}({shown})" if index else variable.name

    def _value(self, variable: Variable, value: int) -> str:
        if variable.type in self.spec.enums:
            return self.spec.enums[variable.type].values[value]
        return str(bool(value)).lower() if variable.type == BOOL else str(value)


def _reads(e: Expr) -> list[Expr]:
    """Reads of variables in the expression, each once."""
    if e.op == "call":
        return _reads(e.meaning)
    found = {to_text(e): e} if e.op == "read" else {}
    for child in children(e):
        found |= {to_text(x): x for x in _reads(child)}
    return list(found.values())


__all__ = ["TraceFileError", "Validator", "Verdict"]
