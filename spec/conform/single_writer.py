"""Checks in the source text that generated code is the only writer of the scheduler's state.

The state is private to the class `Machine`, whose declaration translation validation checks. What C++ offers to get
around that must not occur in hand-written code: casts that take constness or types away, macros that rename keywords,
pointers to members, explicit template tricks, and a second definition of a member function. One file writes raw
memory, for lock step only: `EXCEPTION`, which only generated code may include.
"""

from __future__ import annotations

import re
from pathlib import Path

from .cpp.layout import Finding

FORBIDDEN = {
    r"\bfriend\b": "a friend could write private state",
    r"\bconst_cast\b": "const_cast takes away that readers may not write",
    r"\breinterpret_cast\b(?!<const )": "reinterpret_cast reaches private state",
    r"#\s*define\s+(private|public|protected|class|struct|const|friend)\b": "a macro renames a keyword",
    r"\bMachine::\w+\s*\([^;]*\)\s*(const\s*)?\{": "a member function of Machine outside generated code",
    r"&\s*(\w+::)*Machine::\w+_\b": "a pointer to a private member of Machine",
    r"\b(memcpy|memset|memmove)\s*\([^;]*machine": "raw memory of the machine is written",
    r"\bmutable\b": "mutable state is written by readers",
    r"\bMachineAccess\b": "MachineAccess restores states for verification; only generated code may name it",
    r"\btemplate\s*<>\s": "a specialisation may reach private state",
    r"#\s*include.*\bstate_image\.h": "StateImage writes raw memory; only generated code may include it",
}
EXCEPTION = Path("verification/state_image.h")
"""The one hand-written file that writes a machine's memory: lock step puts a state back with it."""
SUFFIXES = (".h", ".hpp", ".cpp", ".cc", ".inc")


def other_writers(folder: Path, private: tuple[str, ...] = ()) -> list[Finding]:
    """Every place in hand-written C++ below the folder that could write the state.

    `private`: names of the private members of Machine; nothing outside may mention them behind a dot or an arrow.
    """
    findings = []
    patterns = {re.compile(p): why for p, why in FORBIDDEN.items()}
    for name in private:
        patterns[re.compile(rf"machine\w*(\(\))?\s*(\.|->)\s*{name}\b")] = f"{name} is private to Machine"
    scanned = [p for p in folder.rglob("*") if p.suffix in SUFFIXES and "generated" not in p.parts]
    for path in sorted(p for p in scanned if p.relative_to(folder) != EXCEPTION):
        findings += [
            Finding(path.relative_to(folder.parent).as_posix(), line, f"{why}: {text.strip()}", "text")
            for line, text in enumerate(path.read_text().split("\n"), 1)
            for pattern, why in patterns.items()
            if pattern.search(text.partition("//")[0])
        ]
    return findings


def unchecked_friends(header: str) -> list[Finding]:
    """Places in the generated header where a friend (but the one for verification) or mutable state is declared."""
    return [
        Finding("machine.h", line, f"{word} lets others write the state", "text")
        for line, text in enumerate(header.split("\n"), 1)
        for word in ("friend", "mutable", "protected")
        if re.search(rf"\b{word}\b(?! struct MachineAccess;)", text.partition("//")[0])
    ]
