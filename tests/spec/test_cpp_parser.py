"""The parser of generated C++: precedence as the C++ standard has it, and errors that name file and line."""

from __future__ import annotations

import pytest

from tokenspeed.spec.conform.cpp.declarations import read_unit
from tokenspeed.spec.conform.cpp.parser import Parser, show
from tokenspeed.spec.conform.cpp.tokens import CppError, read_source


def parsed(text: str) -> str:
    parser = Parser(read_source(text, "x.cpp", False))
    node = parser.expression()
    assert parser.token.kind == "end", parser.token
    return show(node)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a - b - c", "(a - b) - c"),
        ("a - b + c", "(a - b) + c"),
        ("a + b < c", "(a + b) < c"),
        ("a < b == c < d", "(a < b) == (c < d)"),
        ("a == b && c != d", "(a == b) && (c != d)"),
        ("a || b && c", "a || (b && c)"),
        ("!a && b", "(!a) && b"),
        ("!a == b", "(!a) == b"),
        ("-a + b", "(-a) + b"),
        ("a & b == c", "a & (b == c)"),
        ("a || b ? c : d", "(a || b) ? c : d"),
        ("a ? b : c ? d : e", "a ? b : (c ? d : e)"),
        ("a = b ? c : d", "a = (b ? c : d)"),
        ("a * b + c % d", "(a * b) + (c % d)"),
        ("a - (b - c)", "a - (b - c)"),
        ("x[i].y - 1", "((x[i]).y) - 1"),
        ("!f(a, b)", "!(f(a, b))"),
        ("a + -1", "a + (-1)"),
    ],
)
def test_operators_bind_as_in_the_standard(text: str, meaning: str) -> None:
    assert parsed(text) == parsed(meaning)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a - b - c", "a - (b - c)"),
        ("a || b && c", "(a || b) && c"),
        ("!a && b", "!(a && b)"),
        ("!a == b", "!(a == b)"),
    ],
)
def test_parentheses_that_matter_are_seen(text: str, other: str) -> None:
    assert parsed(text) != parsed(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("namespace tokenspeed {\nint f() { return 1 }\n}", "x.cpp:2: expected ';', found '}'"),
        ("namespace tokenspeed {\nint f() { if (a) b(); else c(); }\n}", "x.cpp:2: generated code has no else"),
        ("namespace tokenspeed {\n#ifdef X\n}", "x.cpp:2: unknown directive '#ifdef X'"),
        ("#if TOKENSPEED_CHECKED\n", "x.cpp:1: #if without #endif"),
        ("#endif\n", "x.cpp:1: #endif without #if"),
        ("#if OTHER\n#endif", "x.cpp:1: unknown condition 'OTHER'"),
        ("namespace tokenspeed {\nint f() { return 'a'; }\n}", "x.cpp:2: cannot read"),
        ("namespace tokenspeed {\nint f() { return 0x10; }\n}", "x.cpp:2: cannot read"),
        ("namespace tokenspeed {\nint f() { /* hidden */ }\n}", "x.cpp:2: "),
        ("namespace tokenspeed {\nint f();\nint f();\n}", "x.cpp:3: f is declared twice"),
        ("namespace tokenspeed {\nint f();\n", "x.cpp:3: "),
        ("namespace tokenspeed {\n}\nint f();", "x.cpp:3: 'int' after the namespace"),
    ],
)
def test_what_is_not_known_is_an_error_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(CppError) as raised:
        read_unit(text, "x.cpp", False)
    assert str(raised.value).startswith(message)


def test_each_build_sees_its_own_lines() -> None:
    text = (
        "namespace tokenspeed {\n#if TOKENSPEED_CHECKED\nint f();\n#endif\n#if !TOKENSPEED_CHECKED\nint g();\n#endif\n}"
    )
    assert list(read_unit(text, "x.cpp", True).functions) == ["f"]
    assert list(read_unit(text, "x.cpp", False).functions) == ["g"]
