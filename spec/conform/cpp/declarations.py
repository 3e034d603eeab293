"""Reads the declarations of a generated C++ file: enums, constants, structs, the class `Machine` and functions."""

from __future__ import annotations

from dataclasses import dataclass, field

from .parser import Node, Parser
from .tokens import CppError, Source, read_source


@dataclass(frozen=True)
class Field:
    """A data member or constant; `value` is its initialiser."""

    type: str
    name: str
    value: Node | None
    line: int
    private: bool = False


@dataclass(frozen=True)
class Function:
    """A declared or defined function; `parameters` are (type, name) pairs, `starts` a constructor's initialisers."""

    name: str
    returns: str
    parameters: tuple[tuple[str, str], ...]
    nodiscard: bool
    const: bool
    template: str
    starts: tuple[tuple[str, tuple[Node, ...]], ...]
    body: Node | None
    line: int
    private: bool = False
    file: str = ""

    @property
    def signature(self) -> tuple[str, tuple[str, ...], bool, str]:
        """What declaration and definition share."""
        return self.returns, tuple(t for t, _ in self.parameters), self.const, self.template


@dataclass(frozen=True)
class Enumeration:
    """An enum class: the integer type that holds it, and its values in order."""

    type: str
    values: tuple[str, ...]
    line: int


@dataclass
class Structure:
    """A struct or class."""

    name: str
    line: int
    fields: dict[str, Field] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    nested: dict[str, Structure] = field(default_factory=dict)
    friends: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Unit:
    """Everything that one file declares, in order."""

    file: str
    source: Source
    enums: dict[str, Enumeration] = field(default_factory=dict)
    constants: dict[str, Field] = field(default_factory=dict)
    structures: dict[str, Structure] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def read_unit(text: str, file: str, checked: bool) -> Unit:
    """Parse one generated file as one build sees it. Raises CppError at the first thing that is not known."""
    return _Reader(read_source(text, file, checked)).unit()


class _Reader(Parser):
    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.result = Unit(source.file, source)

    def unit(self) -> Unit:
        self.expect("namespace", "tokenspeed", "{")
        while not self.accept("}"):
            self.item()
        if self.token.kind != "end":
            raise self.error(f"{self.token.text!r} after the namespace")
        return self.result

    def new(self, name: str, known: dict[str, object], line: int) -> None:
        if name in known:
            raise CppError(self.file, line, f"{name} is declared twice")

    def item(self) -> None:
        line = self.token.line
        if self.accept("enum", "class"):
            name = self.take("name")
            self.new(name, {**self.result.enums}, line)
            self.result.enums[name] = self.enumerators(line)
        elif self.accept("using"):
            name = self.take("name")
            self.expect("=")
            self.result.names[name] = self.type()
            self.expect(";")
        elif self.accept("inline", "constexpr"):
            constant = self.field(False)
            self.new(constant.name, {**self.result.constants}, line)
            self.result.constants[constant.name] = constant
        elif self.peek("struct") or self.peek("class"):
            structure = self.structure()
            self.new(structure.name, {**self.result.structures}, line)
            self.result.structures[structure.name] = structure
            self.expect(";")
        else:
            function = self.function(False)
            self.new(function.name, {**self.result.functions}, line)
            self.result.functions[function.name] = function

    def enumerators(self, line: int) -> Enumeration:
        type_ = self.type() if self.accept(":") else "int"
        self.expect("{")
        values = []
        while not self.accept("}"):
            values.append(self.take("name"))
            if not self.peek("}"):
                self.expect(",")
        self.expect(";")
        return Enumeration(type_, tuple(values), line)

    def field(self, private: bool) -> Field:
        line, type_, name, value = self.token.line, self.type(), self.take("name"), None
        if self.accept("="):
            value = self.expression()
        elif self.peek("{"):
            value = self.primary()
        self.expect(";")
        return Field(type_, name, value, line, private)

    def structure(self) -> Structure:
        private = self.take("name") == "class"
        result = Structure(self.take("name"), self.token.line)
        self.expect("{")
        while not self.accept("}"):
            self.member(result, private)
            if self.tokens[self.at - 1].text == ":":
                private = self.tokens[self.at - 2].text == "private"
        return result

    def member(self, into: Structure, private: bool) -> None:
        line = self.token.line
        if self.accept("public", ":") or self.accept("private", ":"):
            return
        if self.accept("friend", "struct"):
            into.friends.append((self.take("name"), line))
            self.expect(";")
            return
        if self.peek("struct"):
            nested = self.structure()
            self.new(nested.name, {**into.nested}, line)
            into.nested[nested.name] = nested
            if not self.peek(";"):
                name = self.take("name")
                self.new(name, {**into.fields}, line)
                into.fields[name] = Field(nested.name, name, None, line, private)
            self.expect(";")
            return
        if self.is_function():
            function = self.function(private)
            self.new(function.name, {**into.functions}, line)
            into.functions[function.name] = function
        else:
            found = self.field(private)
            self.new(found.name, {**into.fields}, line)
            into.fields[found.name] = found

    def is_function(self) -> bool:
        """Whether a parenthesis comes before the end of the declaration."""
        at = self.at
        while self.tokens[at].text not in (";", "{", "=", "(") and self.tokens[at].kind != "end":
            at += 1
        return self.tokens[at].text == "("

    def function(self, private: bool) -> Function:
        line, template = self.token.line, ""
        if self.accept("template", "<"):
            template = self.take("name") + ("..." if self.accept("...") else "") + f" {self.take('name')}"
            self.expect(">")
        self.accept("explicit")
        nodiscard = self.accept("[", "[", "nodiscard", "]", "]")
        returns = self.type()
        name = returns if self.peek("(") else self.qualified()
        returns = "" if name == returns else returns
        parameters = self.parameters()
        const = self.accept("const")
        starts: list[tuple[str, tuple[Node, ...]]] = []
        while self.accept(":") if not starts else self.accept(","):
            member = self.take("name")
            self.expect("(")
            starts.append((member, self.arguments(")")))
        body = None if not starts and self.accept(";") else self.block()
        return Function(
            name, returns, tuple(parameters), nodiscard, const, template, tuple(starts), body, line, private, self.file
        )

    def parameters(self) -> list[tuple[str, str]]:
        self.expect("(")
        found: list[tuple[str, str]] = []
        while not self.accept(")"):
            if found:
                self.expect(",")
            found.append((self.type() + ("..." if self.accept("...") else ""), self.take("name")))
        return found
