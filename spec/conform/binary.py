"""`tokenspeed verify binary`: whether the compiled scheduler is what the specification says, link by link.

The chain is specification -> generated C++ -> binary. The binary carries the SHA-256 of the specification and of the
generated sources that it was compiled from; the sources are validated against the specification (translation.py). The
compiler is trusted.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from ..language.spec import Spec
from .bounds_proof import prove_bounds
from .single_writer import SUFFIXES, other_writers, unchecked_friends
from .translation import Sources, read, validate

SCHEDULER = Path(__file__).resolve().parents[2] / "scheduler"
PLURALS = {
    "bounded": "bounded integers",
    "number of individuals": "numbers of individuals",
    "clock": "step and arrival numbers",
}

_PROBE = """
import importlib.machinery, importlib.util, json, pathlib, sys
path = sys.argv[1]
name = pathlib.Path(path).name.partition(".")[0]
loader = importlib.machinery.ExtensionFileLoader(name, path)
module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path, loader=loader))
loader.exec_module(module)
names = ("SPEC_HASH", "SOURCE_HASH", "CHECKED", "TRANSITIONS")
print(json.dumps({n: getattr(module, n, None) for n in names}))
"""


@dataclass
class Check:
    """One link of the chain: what was looked at, what was found, and whether that is as it must be."""

    what: str
    good: bool | None
    found: str
    details: list[str] = field(default_factory=list)


class BinaryError(ValueError):
    """There is no binary, or it is none; the message says what to do."""


def generated_sources(folder: Path = SCHEDULER) -> Sources:
    """The texts that are validated. Raises FileNotFoundError if the package was installed without them."""
    generated = folder / "generated"
    names = ("machine.h", "machine.cpp", "machine_ghosts.cpp")
    return Sources(*[(generated / name).read_text() for name in names], (folder / "core/state/ids.h").read_text())


def source_hash(folder: Path = SCHEDULER) -> str:
    """SHA-256 (hex) of the SHA-256 of each generated file in order of name; CMakeLists.txt computes the same."""
    files = sorted(p for p in (folder / "generated").iterdir() if p.suffix in (".h", ".cpp"))
    return hashlib.sha256("".join(hashlib.sha256(p.read_bytes()).hexdigest() for p in files).encode()).hexdigest()


def find_binary() -> Path:
    """The extension module that `import tokenspeed.scheduler` loads, found without loading it. Raises BinaryError."""
    package = __name__.partition(".")[0]
    folders = [Path(p) for p in sys.modules[package].__path__] + [Path(p or ".") / package for p in sys.path]
    for folder in folders:
        for suffix in EXTENSION_SUFFIXES:
            path = folder / "scheduler" / f"_core{suffix}"
            if path.is_file():
                return path
    raise BinaryError("the compiled scheduler is not installed; run: make setup")


def ask_binary(path: Path) -> dict[str, Any]:
    """What the binary says about itself, asked in a process of its own. Raises BinaryError."""
    if not path.is_file():
        raise BinaryError(f"{path} is no file; give the extension module _core*.so, or nothing for the installed one")
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, str(path.resolve())], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        last = (probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"])[-1]
        what = f"{path} is no extension module that {sys.executable} can load: {last}"
        raise BinaryError(f"{what}; give a _core*.so of tokenspeed, built for this Python")
    answer: dict[str, Any] = json.loads(probe.stdout)
    if not isinstance(answer["SPEC_HASH"], str) or answer["TRANSITIONS"] is None:
        what = f"{path} does not name its specification and transitions, so it is no scheduler of this project"
        raise BinaryError(f"{what}; give a _core*.so of tokenspeed")
    return answer


def check_binary(spec: Spec, answer: dict[str, Any], folder: Path = SCHEDULER) -> list[Check]:
    """All links, in order. A link that cannot be looked at has `good` None."""
    checks = [
        _same("specification", answer["SPEC_HASH"], spec.digest(), "the binary", "this specification"),
        _same_transitions(spec, answer["TRANSITIONS"]),
    ]
    try:
        sources = generated_sources(folder)
    except FileNotFoundError as missing:
        what = f"{missing.filename} is not beside the binary; run this in a clone of the repository"
        return [*checks, Check("generated sources", None, f"not checked: {what}")]
    if answer["SOURCE_HASH"] is None:
        unknown = "the binary does not say which sources it was compiled from; rebuild it with: make setup"
        checks.append(Check("generated sources", False, unknown))
    else:
        checks.append(
            _same(
                "generated sources",
                answer["SOURCE_HASH"],
                source_hash(folder),
                "the binary",
                f"{folder.name}/generated",
            )
        )
    return [*checks, _translation(spec, sources), _bounds(spec), _writers(spec, sources, folder)]


def _same(what: str, found: str, wanted: str, one: str, other: str) -> Check:
    if found == wanted:
        return Check(what, True, f"SHA-256 {found[:16]}..., the same in {one} and {other}")
    fix = "run: make setup" if what == "specification" else "regenerate and rebuild: make generated setup"
    return Check(what, False, f"differs; {fix}", [f"{one}: {found}", f"{other}: {wanted}"])


def _same_transitions(spec: Spec, found: list[str]) -> Check:
    names = list(spec.transitions)
    if found == names:
        return Check("transitions", True, f"{len(names)} names, the same in the same order")
    only = [f"only in the binary: {n}" for n in found if n not in names]
    only += [f"only in the specification: {n}" for n in names if n not in found]
    return Check("transitions", False, "differ; run: make setup", only or ["the order differs"])


def _translation(spec: Spec, sources: Sources) -> Check:
    result = validate(spec, sources)
    if not result.valid:
        shown = [f"{f} [{f.by}]" for f in result.findings]
        return Check("translation", False, f"{len(shown)} differences; run: make generated setup", shown)
    proved = ", ".join(f"{number} {kind}" for kind, number in result.proofs.items())
    found = f"{len(spec.transitions)} transitions in release and checked text, proved by z3: {proved}"
    return Check("translation", True, f"{found} ({result.seconds:.1f} s)")


def _bounds(spec: Spec) -> Check:
    kept = prove_bounds(spec)
    failed = [f"{k.transition} may lead {k.variable} out of its bounds" for k in kept if not k.proved]
    counts = Counter(k.kind for k in kept)
    found = ", ".join(f"{number} of {PLURALS[kind]}" for kind, number in counts.items())
    if failed:
        return Check("integer bounds", False, f"{len(failed)} integers may leave them", failed)
    return Check("integer bounds", True, f"kept by every write of an integer: {found}")


def _writers(spec: Spec, sources: Sources, folder: Path) -> Check:
    try:
        layout, _ = read(spec, sources, True)
    except ValueError:
        return Check("single writer", None, "not checked: the generated sources cannot be read")
    private = tuple(name for name, f in layout.machine.fields.items() if f.private)
    findings = [*unchecked_friends(sources.header), *other_writers(folder, private)]
    if findings:
        return Check("single writer", False, "hand-written code could write the state", [str(f) for f in findings])
    files = sum(p.suffix in SUFFIXES and "generated" not in p.parts for p in folder.rglob("*"))
    return Check("single writer", True, f"{files} hand-written C++ files have no way to write the machine's state")
