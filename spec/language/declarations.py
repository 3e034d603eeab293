"""What a specification is made of: sorts, variables, transitions and properties over a small expression tree.

These objects say what they are and nothing else; `Spec` (language.py) collects them and gives them their names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .expressions import Expr, SpecError, lift, still, to_text, variables_read


@dataclass(frozen=True)
class Sort:
    """An unbounded set of individuals; `letter` names them in timelines (r0, r1, ...).

    `grows`: C++ adds records of it one by one; it has a fixed number of all others. `inhabited`: there is at least
    one; any other sort may be empty.
    """

    name: str
    letter: str
    grows: bool = False
    inhabited: bool = False


@dataclass(frozen=True)
class Integers:
    """A kind of integers: what they are, and from 0 to which number they are in C++ (inclusive).

    `clock`: given out one after the other. `ordered`: only compared, so a state and the one with their ranks are alike.
    """

    name: str
    most: int
    clock: bool = False
    ordered: bool = False


@dataclass(frozen=True)
class Number:
    """An integer parameter: its kind, and the range that makes sense (None: any).

    `tried`: which values searches of small instances try, first and last, or a function that gives both for parameters
    before it; one value more than guards allow shows a dropped guard.
    """

    low: Expr | int | None = None
    high: Expr | int | None = None
    kind: Integers | None = None
    tried: Any = None


class Enum:
    """A finite type; its values are attributes: `RequestState.WAITING`."""

    def __init__(self, name: str, values: dict[str, str]) -> None:
        self.name = name
        self.values = tuple(values)
        self.docs = dict(values)
        for value in values:
            setattr(self, value, Expr("enum", self, value, type=name))

    def __getattr__(self, value: str) -> Expr:
        raise SpecError(f"{self.name} has no state {value}; it has {', '.join(self.values)}")


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY = _Any()
"""As an index of an effect: every individual of that sort at once (ghost variables only)."""


@dataclass(frozen=True)
class Place:
    """Where an effect writes: a variable and its indices."""

    variable: Variable
    index: tuple[Any, ...]


@dataclass(eq=False)
class Variable:
    """State: a function from sorts to a value. `ghost` variables exist in proofs and checked builds only.

    `one`: a relation in which each first individual has at most one second (proved), so that it is kept as an id;
    `table`: a relation kept as a table, and the variable of its second individual that says where to look there.
    """

    name: str
    sorts: tuple[Sort, ...]
    type: str
    init: Expr
    ghost: bool
    doc: str
    one: bool = False
    table: Variable | None = None
    kind: Integers | None = None

    def __call__(self, *index: Expr) -> Expr:
        """The variable's value for these individuals, as an expression."""
        if tuple(i.type for i in index) != tuple(s.name for s in self.sorts):
            raise SpecError(f"{self.name} is indexed by {[s.name for s in self.sorts]}, not {[i.type for i in index]}")
        return Expr("read", self, *index, type=self.type)

    def __getitem__(self, index: Any) -> Place:
        """The place that an effect writes."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.sorts):
            raise SpecError(f"{self.name} has {len(self.sorts)} indices, not {len(index)}")
        return Place(self, index)

    @property
    def letters(self) -> tuple[str, ...]:
        """A name for each index, all different: the sort's letter, with a number if an index before has it."""
        sorts = [s.letter for s in self.sorts]
        return tuple(x if x not in sorts[:i] else f"{x}{i}" for i, x in enumerate(sorts))

    @property
    def place(self) -> Place:
        """The place of a variable without indices."""
        return Place(self, ())


@dataclass(frozen=True)
class Parameter:
    """A parameter of a transition or property. Integers carry the range that makes sense (`low <= x`, `x <= high`)."""

    name: str
    type: str
    low: Expr | None = None
    high: Expr | None = None
    kind: Integers | None = None

    @property
    def expr(self) -> Expr:
        """The parameter as an expression."""
        return Expr("param", self.name, type=self.type)


@dataclass(frozen=True)
class Definition:
    """A name for a formula about one state: `running(r)` may then be written, and is what reports and C++ say."""

    name: str
    parameters: tuple[Parameter, ...]
    formula: Expr
    doc: str

    def __call__(self, *arguments: Expr) -> Expr:
        """The formula about these individuals, by its name."""
        if [a.type for a in arguments] != [p.type for p in self.parameters]:
            raise SpecError(
                f"{self.name} is about {[p.type for p in self.parameters]}, not {[a.type for a in arguments]}"
            )
        return Expr("call", self, *arguments, type=self.formula.type)


@dataclass(frozen=True)
class Guard:
    """One named condition of a transition."""

    name: str
    condition: Expr


@dataclass(frozen=True)
class Effect:
    """`variable[index] := value`. `binders` are the parameters that stand for ANY indices inside `value`."""

    variable: Variable
    index: tuple[Expr, ...]
    binders: tuple[Parameter, ...]
    value: Expr


@dataclass(frozen=True)
class Move:
    """One edge of a state diagram."""

    machine: Variable
    sources: tuple[str, ...]
    target: str


@dataclass(eq=False)
class Transition:
    """An atomic change of state, by the scheduler, or by the environment (device, clients)."""

    name: str
    actor: str
    parameters: tuple[Parameter, ...]
    doc: str
    guards: list[Guard] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    known: list[tuple[Place, Expr]] = field(default_factory=list)

    def guard(self, name: str, condition: Expr) -> None:
        """The transition may be taken only if the condition holds."""
        if any(g.name == name for g in self.guards):
            raise SpecError(f"{self.name} has two guards named {name!r}")
        self.guards.append(Guard(name, still(f"{self.name}, guard {name!r}", condition)))

    def set(self, place: Place, value: Any) -> None:
        """Effect: the place gets the value. An ANY index takes a function of the individuals it stands for."""
        variable = place.variable
        index: list[Expr] = []
        binders: list[Parameter] = []
        for i, sort in zip(place.index, variable.sorts, strict=True):
            if i is ANY:
                if not variable.ghost:
                    raise SpecError(
                        f"{self.name}: {variable.name} is concrete; only ghost variables may be set for ANY"
                    )
                binders.append(Parameter(f"any_{sort.letter}{len(binders)}", sort.name))
                index.append(binders[-1].expr)
            else:
                index.append(i)
        expression = lift(value(*[b.expr for b in binders])) if callable(value) else lift(value)
        still(f"{self.name}, effect on {variable.name}", expression)
        self.effects.append(Effect(variable, tuple(index), tuple(binders), expression))

    def add(self, place: Place, amount: Expr | int) -> None:
        """Effect: the place grows by the amount."""
        self.set(place, place.variable(*place.index) + amount)

    def join(self, place: Place) -> None:
        """Effect: these individuals enter a relation in which they are not."""
        self.was(place, False)
        self.set(place, True)

    def leave(self, place: Place) -> None:
        """Effect: these individuals leave a relation in which they are."""
        self.was(place, True)
        self.set(place, False)

    def was(self, place: Place, value: Any) -> None:
        """Hint: the place has this value before, so that effects on counters come out shorter; nothing trusts it."""
        self.known.append((place, lift(value)))

    def move(self, place: Place, sources: Expr | tuple[Expr, ...], target: Expr) -> None:
        """The individual's state goes from one of `sources` to `target`: a guard and an effect in one."""
        sources = sources if isinstance(sources, tuple) else (sources,)
        names = tuple(str(s.args[1]) for s in sources)
        self.guard(
            f"{place.variable.sorts[0].name.lower()} {'/'.join(names)}", place.variable(*place.index).isin(*sources)
        )
        self.set(place, target)
        self.moves.append(Move(place.variable, names, str(target.args[1])))

    def stay(self, place: Place, *sources: Expr) -> None:
        """Guard: the individual is in one of these states (and keeps it)."""
        names = "/".join(str(s.args[1]) for s in sources)
        self.guard(f"{place.variable.sorts[0].name.lower()} {names}", place.variable(*place.index).isin(*sources))

    def finish(self) -> None:
        """Close the declaration: ranges of integers become guards, and no place may be written twice."""
        for parameter in self.parameters:
            if parameter.low is not None:
                self.guard(f"{parameter.name} large enough", parameter.low <= parameter.expr)
            if parameter.high is not None:
                self.guard(f"{parameter.name} small enough", parameter.expr <= parameter.high)
        written = [(e.variable.name, tuple(map(to_text, e.index))) for e in self.effects]
        if len(set(written)) != len(written):
            raise SpecError(f"{self.name} writes the same place twice; effects are simultaneous")


@dataclass(frozen=True)
class Count:
    """A counter and what it means: the sum, over individuals with `condition`, of `weight` (1 if None)."""

    variable: Variable
    over: Parameter
    index: tuple[Parameter, ...]
    condition: Expr
    weight: Expr | None

    @property
    def reads(self) -> set[str]:
        """The variables whose change may change the counter or what it counts."""
        weight = set() if self.weight is None else variables_read(self.weight)
        return {self.variable.name} | variables_read(self.condition) | weight


@dataclass(frozen=True)
class Property:
    """`kind`: "property" (users rely on it), "lemma" (helps the proof), "action" (relates two successive states).

    `given`: a fact about every individual of a sort, in the state before, without which an action claims nothing.
    """

    name: str
    kind: str
    group: str
    parameters: tuple[Parameter, ...]
    formula: Expr
    doc: str
    given: tuple[Parameter, Expr] | None = None


@dataclass(frozen=True)
class Tiling:
    """What a counter counts covers a range: disjoint intervals as long as their weights, all within the range.

    The range begins at `start` and is as long as the counter's value; `position` is where an interval begins. All three
    speak of the counter's own parameters; it holds of individuals with `when`.
    """

    counter: str
    position: Expr
    start: Expr
    when: Expr


@dataclass(frozen=True)
class Choice:
    """Transitions of which, when `when` holds, exactly one may be taken for the given parameters.

    `arguments`: what stands for integer parameters of the transitions.
    """

    name: str
    group: str
    transitions: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    when: Expr
    doc: str
    arguments: dict[str, Expr] = field(default_factory=dict)
