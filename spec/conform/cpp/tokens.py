"""Tokens of the C++ that is generated: the text of one build (release or checked) with line numbers kept.

Whatever is not known here is an error that names file and line; nothing is skipped but blank lines and comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class CppError(ValueError):
    """The text is not what generated code looks like; the message starts with FILE:LINE."""

    def __init__(self, file: str, line: int, what: str) -> None:
        super().__init__(f"{file}:{line}: {what}")
        self.file, self.line, self.what = file, line, what


@dataclass(frozen=True)
class Token:
    """`kind`: "name", "number", "string", "sign" or "end"."""

    kind: str
    text: str
    line: int


@dataclass
class Source:
    """One file as the compiler sees it in one build."""

    file: str
    tokens: list[Token] = field(default_factory=list)
    includes: list[str] = field(default_factory=list)
    once: bool = False


TOKEN = re.compile(
    r"""(?P<space>[ \t]+|//[^\n]*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<number>[0-9]+)(?![\w.'])
      | (?P<string>"[^"\\\n]*")
      | (?P<sign>\.\.\.|<<=|>>=|<=>
         |::|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^~!<>=?:;,.(){}\[\]])""",
    re.VERBOSE,
)
CHECKED_ONLY = "CHECKED_ONLY"
"""A macro of ghost.h: its argument in the checked build, nothing in the release build."""
_CONDITIONS = {"TOKENSPEED_CHECKED": True, "!TOKENSPEED_CHECKED": False}


def read_source(text: str, file: str, checked: bool) -> Source:
    """The tokens of the file with `TOKENSPEED_CHECKED` on or off. Raises CppError for what it does not know."""
    source = Source(file)
    conditions: list[tuple[int, bool]] = []
    line = 0
    for line, content in enumerate(text.split("\n"), 1):
        if content.lstrip().startswith("#"):
            _directive(source, content.strip(), line, conditions, checked)
        elif all(active for _, active in conditions):
            source.tokens += _tokens(content, file, line)
    if conditions:
        raise CppError(file, conditions[-1][0], "#if without #endif")
    source.tokens.append(Token("end", "", line))
    source.tokens = _expanded(source, checked)
    return source


def _expanded(source: Source, checked: bool) -> list[Token]:
    """The tokens with what CHECKED_ONLY(...) stands for: what is in the parentheses, or in a release build nothing."""
    found, inside, depth = list[Token](), False, 0
    for token in source.tokens:
        if token.text == CHECKED_ONLY and token.kind == "name" and not inside:
            inside, depth = True, 0
        elif inside and depth == 0 and token.text != "(":
            raise CppError(source.file, token.line, f"{CHECKED_ONLY} without parentheses")
        elif inside:
            before, depth = depth, depth + _opens(token)
            if checked and before > 0 and depth > 0:
                found.append(token)
            inside = depth > 0
        else:
            found.append(token)
    if inside:
        raise CppError(source.file, source.tokens[-1].line, f"{CHECKED_ONLY} without an end")
    return found


def _opens(token: Token) -> int:
    return {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0


def _directive(source: Source, text: str, line: int, conditions: list[tuple[int, bool]], checked: bool) -> None:
    active = all(a for _, a in conditions)
    if text.startswith("#if "):
        condition = text.removeprefix("#if ").strip()
        if condition not in _CONDITIONS:
            raise CppError(source.file, line, f"unknown condition {condition!r}")
        conditions.append((line, checked == _CONDITIONS[condition]))
    elif text == "#endif":
        if not conditions:
            raise CppError(source.file, line, "#endif without #if")
        conditions.pop()
    elif text.startswith("#include ") and not conditions:
        source.includes.append(text.removeprefix("#include ").strip())
    elif text == "#pragma once" and active:
        source.once = True
    else:
        raise CppError(source.file, line, f"unknown directive {text!r}")


def _tokens(content: str, file: str, line: int) -> list[Token]:
    found, at = [], 0
    while at < len(content):
        match = TOKEN.match(content, at)
        if match is None:
            raise CppError(file, line, f"cannot read {content[at : at + 20]!r}")
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), match[0], line))
        at = match.end()
    return found
