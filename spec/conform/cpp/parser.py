"""A recursive-descent parser for the C++ that is generated: expressions with C++'s precedence, and statements.

It shares nothing with the printer (language/printing.py), so that a parenthesis that the printer forgets changes what
is read here as it changes what the compiler reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .tokens import CppError, Source, Token


@dataclass(frozen=True)
class Node:
    """A piece of syntax; `args` are nodes, tuples of nodes, texts or None.

    Expressions: number(text), string(text), name(qualified text), member(of, field), index(of, at), call(function,
    arguments), pack(arguments), pack size(name), cast(type, of), braces(type or "", items), unary(sign, of),
    binary(sign, left, right), ternary(if, then, else). Statements: block(statements), if(condition, then), for(type,
    name, start, condition, step, body), each(type, name, range, body), switch(of, statements), case(value),
    return(value or None), declare(type, name, value or None), do(expression).
    """

    kind: str
    args: tuple[Any, ...]
    line: int

    def __str__(self) -> str:
        return show(self)


LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)
"""Binary operators from the loosest to the tightest, all left-associative ([expr] of the C++ standard)."""

ASSIGNMENTS = ("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
TEMPLATES = ("static_cast", "std::vector", "std::array", "std::initializer_list", "Ghost")
"""Names after which `<` opens a list of arguments and is not a comparison."""


class Parser:
    """Reads one source from its first token."""

    def __init__(self, source: Source) -> None:
        self.file, self.tokens, self.at = source.file, source.tokens, 0

    # Tokens.

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.at]

    def error(self, what: str) -> CppError:
        """An error at the next token."""
        return CppError(self.file, self.token.line, what)

    def peek(self, *texts: str) -> bool:
        """Whether the next tokens are these."""
        return all(
            t.text == text and t.kind != "string"
            for t, text in zip(self.tokens[self.at : self.at + len(texts)], texts, strict=False)
        ) and self.at + len(texts) <= len(self.tokens)

    def accept(self, *texts: str) -> bool:
        """Take these tokens if they come next."""
        found = self.peek(*texts)
        if found:
            self.at += len(texts)
        return found

    def expect(self, *texts: str) -> None:
        """Take these tokens; anything else is an error."""
        for text in texts:
            if not self.accept(text):
                raise self.error(f"expected {text!r}, found {self.token.text or 'the end of the file'!r}")

    def take(self, kind: str) -> str:
        """Take a token of this kind and give its text."""
        if self.token.kind != kind:
            raise self.error(f"expected a {kind}, found {self.token.text or 'the end of the file'!r}")
        self.at += 1
        return self.tokens[self.at - 1].text

    def qualified(self) -> str:
        """A name with its scopes: std::int64_t."""
        name = self.take("name")
        while self.accept("::"):
            name += f"::{self.take('name')}"
        return name

    def type(self) -> str:
        """A type in one spelling: `const std::vector<BlockId>&`."""
        text = "const " if self.accept("const") else ""
        text += self.qualified()
        if self.peek("<"):
            text += self.template_arguments()
        while self.token.text in ("&", "*", "&&") and self.token.kind == "sign":
            text += self.take("sign")
        return text

    def template_arguments(self) -> str:
        """What stands between < and >, with both."""
        self.expect("<")
        parts = []
        while True:
            parts.append(self.take("number") if self.token.kind == "number" else self.type())
            if self.accept(">>"):  # two lists end here; give one back
                self.at -= 1
                self.tokens[self.at] = Token("sign", ">", self.token.line)
                break
            if self.accept(">"):
                break
            self.expect(",")
        return f"<{', '.join(parts)}>"

    # Expressions.

    def expression(self) -> Node:
        """An assignment, or anything that binds tighter."""
        line, left = self.token.line, self.conditional()
        if self.token.kind == "sign" and self.token.text in ASSIGNMENTS:
            sign = self.take("sign")
            return Node("binary", (sign, left, self.expression()), line)
        return left

    def conditional(self) -> Node:
        """`a ? b : c`, or anything that binds tighter."""
        line, condition = self.token.line, self.binary(0)
        if not self.accept("?"):
            return condition
        then = self.expression()
        self.expect(":")
        return Node("ternary", (condition, then, self.expression()), line)

    def binary(self, level: int) -> Node:
        """Operators of this level and tighter ones."""
        if level == len(LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.token.kind == "sign" and self.token.text in LEVELS[level]:
            line, sign = self.token.line, self.take("sign")
            left = Node("binary", (sign, left, self.binary(level + 1)), line)
        return left

    def unary(self) -> Node:
        """Prefix operators."""
        if self.token.kind == "sign" and self.token.text in ("!", "-", "+", "~", "&", "*", "++", "--"):
            line, sign = self.token.line, self.take("sign")
            return Node("unary", (sign, self.unary()), line)
        return self.postfix()

    def postfix(self) -> Node:
        """Members, indices and calls."""
        node = self.primary()
        while True:
            line = self.token.line
            if self.accept("."):
                node = Node("member", (node, self.take("name")), line)
            elif self.accept("->"):
                node = Node("member", (Node("unary", ("*", node), line), self.take("name")), line)
            elif self.accept("["):
                node = Node("index", (node, self.expression()), line)
                self.expect("]")
            elif self.accept("("):
                node = Node("call", (node, self.arguments(")")), line)
            elif self.token.text in ("++", "--"):
                node = Node("unary", (f"post{self.take('sign')}", node), line)
            else:
                return node

    def primary(self) -> Node:
        """Literals, names, casts, lists in braces and parentheses."""
        line = self.token.line
        if self.token.kind in ("number", "string"):
            kind = self.token.kind
            return Node(kind, (self.take(kind),), line)
        if self.accept("("):
            inside = self.expression()
            self.expect(")")
            return inside
        if self.accept("{"):
            return Node("braces", ("", self.arguments("}")), line)
        if self.accept("sizeof", "...", "("):
            pack = Node("pack size", (self.take("name"),), line)
            self.expect(")")
            return pack
        name = self.qualified()
        if name in TEMPLATES and self.peek("<"):
            arguments = self.template_arguments()
            if name == "static_cast":
                self.expect("(")
                inside = self.expression()
                self.expect(")")
                return Node("cast", (arguments[1:-1], inside), line)
            name += arguments
            self.expect("{")
            return Node("braces", (name, self.arguments("}")), line)
        return Node("name", (name,), line)

    def arguments(self, end: str) -> tuple[Node, ...]:
        """Expressions up to the closing sign, separated by commas; in braces the last may have one too."""
        found: list[Node] = []
        while not self.accept(end):
            if found:
                self.expect(",")
                if end == "}" and self.accept(end):
                    break
            found.append(self.expression())
            if self.accept("..."):
                found[-1] = Node("pack", (found[-1],), found[-1].line)
        return tuple(found)

    # Statements.

    def block(self) -> Node:
        """Statements in braces."""
        line = self.token.line
        self.expect("{")
        statements = []
        while not self.accept("}"):
            statements.append(self.statement())
        return Node("block", tuple(statements), line)

    def statement(self) -> Node:
        """One statement."""
        line = self.token.line
        if self.peek("{"):
            return self.block()
        if self.accept("if", "("):
            condition = self.expression()
            self.expect(")")
            self.accept("[", "[", "unlikely", "]", "]")
            then = self.statement()
            if self.peek("else"):
                raise self.error("generated code has no else")
            return Node("if", (condition, then), line)
        if self.accept("for", "("):
            return self.loop(line)
        if self.accept("switch", "("):
            value = self.expression()
            self.expect(")")
            return Node("switch", (value, self.block()), line)
        if self.accept("case"):
            value = self.conditional()
            self.expect(":")
            return Node("case", (value,), line)
        if self.accept("return"):
            result = None if self.peek(";") else self.expression()
            self.expect(";")
            return Node("return", (result,), line)
        declaration = self.declaration(line)
        if declaration is not None:
            return declaration
        done = Node("do", (self.expression(),), line)
        self.expect(";")
        return done

    def declaration(self, line: int) -> Node | None:
        """`const T name = value;` or `T name;`, or None if something else comes next."""
        start, tokens = self.at, list(self.tokens)
        try:
            type_ = self.type()
            name = self.take("name")
        except CppError:
            type_ = ""
        if not type_ or not (self.peek("=") or self.peek(";")):
            self.at, self.tokens = start, tokens
            return None
        value = self.expression() if self.accept("=") else None
        self.expect(";")
        return Node("declare", (type_, name, value), line)

    def loop(self, line: int) -> Node:
        """The rest of a `for` after its parenthesis."""
        type_, name = self.type(), self.take("name")
        if self.accept(":"):
            values = self.expression()
            self.expect(")")
            return Node("each", (type_, name, values, self.statement()), line)
        self.expect("=")
        start = self.expression()
        self.expect(";")
        condition = self.expression()
        self.expect(";")
        step = self.expression()
        self.expect(")")
        return Node("for", (type_, name, start, condition, step, self.statement()), line)


def show(node: Any) -> str:
    """The syntax in one spelling, fully parenthesised; equal texts mean equal syntax."""
    if not isinstance(node, Node):
        return f"[{' '.join(map(show, node))}]" if isinstance(node, tuple) else str(node)
    return f"({node.kind} {' '.join(map(show, node.args))})"
