"""Progress claims: in a certain situation, at least one of some transitions may be taken.

A claim may need an individual that is known to exist only because something was counted: a *witness*. Which witnesses a
counter gives, and why, is written in counting.py. A claim may also be given facts about all individuals of a sort
("all others arrived later"), which are assumed for the state of the claim.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from . import counting
from .expressions import Expr, lift, still, substituted, to_text
from .spec import Parameter, Sort, Spec, Variable


@dataclass(frozen=True)
class Option:
    """A transition and its arguments, in order."""

    transition: str
    arguments: tuple[Expr, ...]


@dataclass(eq=False)
class Progress:
    """When all of `conditions` hold, one of `options` may be taken, or one of `alternatives` holds.

    `witnesses` are parameters of which the formula beside them may be assumed; `given` holds for all individuals (and
    may speak of witnesses).
    """

    name: str
    group: str
    parameters: tuple[Parameter, ...]
    doc: str
    spec: Spec
    conditions: list[Expr] = field(default_factory=list)
    witnesses: list[tuple[Parameter, Expr]] = field(default_factory=list)
    given: list[tuple[Parameter, Expr]] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    alternatives: list[Expr] = field(default_factory=list)

    def when(self, condition: Expr) -> None:
        """The situation of the claim."""
        self.conditions.append(still(self.name, condition))

    def for_all(self, sort: Sort, fact: Callable[[Expr], Expr]) -> None:
        """The fact holds of every individual of the sort."""
        parameter = Parameter(f"every_{sort.letter}{len(self.given)}", sort.name)
        self.given.append((parameter, still(self.name, fact(parameter.expr))))

    def one_of(self, counter: Variable, *index: Expr) -> Expr:
        """An individual that the counter counts, if it counts any."""
        count = self.spec.counts[counter.name]
        return self._witness(count.over.type, lambda x: counting.counted(count, index, x))

    def farthest(self, counter: Variable, measure: Callable[[Expr], Expr], *index: Expr) -> Expr:
        """An individual that the counter counts, if it counts any, of which no other counted one has more measure."""
        count = self.spec.counts[counter.name]
        chosen = self.any(self.spec.sorts[count.over.type])
        self.witnesses[-1] = (self.witnesses[-1][0], counting.counted(count, index, chosen))
        other = Parameter(f"every_{self.spec.sorts[count.over.type].letter}{len(self.given)}", count.over.type)
        self.given.append((other, counting.at_most(count, index, measure, other.expr, chosen)))
        return chosen

    def one_more(self, large: Expr, small: Expr) -> Expr:
        """An individual that the first counter counts and the second does not, if the first is larger."""
        counts = [(self.spec.counts[read.args[0].name], read.args[1:]) for read in (large, small)]
        return self._witness(counts[0][0].over.type, lambda x: counting.counted_more(*counts[0], *counts[1], x))

    def covering(self, counter: Variable, at: Expr, *index: Expr) -> Expr:
        """The individual of a tiling that covers the position, if it lies within the tiled range."""
        tiling = self.spec.tilings[counter.name]
        over = self.spec.counts[counter.name].over.type
        return self._witness(over, lambda x: counting.covered(self.spec, tiling, index, at, x))

    def some(self, sort: Sort, fact: Callable[[Expr], Expr]) -> Expr:
        """An individual with the fact, if any has it."""
        chosen = self.any(sort)
        other = Parameter(f"every_{sort.letter}{len(self.given)}", sort.name)
        self.given.append((other, fact(other.expr) >> fact(chosen)))
        return chosen

    def any(self, sort: Sort) -> Expr:
        """An individual of the sort."""
        parameter = Parameter(f"some_{sort.letter}{len(self.witnesses)}", sort.name)
        self.witnesses.append((parameter, lift(True)))
        return parameter.expr

    def then(self, transition: str, *arguments: Expr | int) -> None:
        """An option: this transition with these arguments."""
        self.options.append(Option(transition, tuple(lift(a) for a in arguments)))

    def or_holds(self, formula: Expr) -> None:
        """An alternative that is a fact, not a transition."""
        self.alternatives.append(still(self.name, formula))

    def _witness(self, sort: str, fact: Callable[[Expr], Expr]) -> Expr:
        """An individual with the fact; whoever asks for the same gets the same."""
        for known, formula in self.witnesses:
            if known.type == sort and to_text(formula) == to_text(fact(known.expr)):
                return known.expr
        parameter = Parameter(f"some_{self.spec.sorts[sort].letter}{len(self.witnesses)}", sort)
        self.witnesses.append((parameter, fact(parameter.expr)))
        return parameter.expr

    def outcomes(self) -> list[Expr]:
        """One of these formulas holds: an option may be taken, or an alternative is a fact."""
        return [*[self.enabled(option) for option in self.options], *self.alternatives]

    def enabled(self, option: Option) -> Expr:
        """The formula that says that the option's transition may be taken."""
        transition = self.spec.transitions[option.transition]
        names = {p.name: a for p, a in zip(transition.parameters, option.arguments, strict=True)}
        result = lift(True)
        for guard in transition.guards:
            result = result & substituted(guard.condition, names)
        return result


def condition_of(fact: Expr) -> Expr | None:
    """What has to hold for a witness to be found, if its fact says so: that a counter counts somebody, for one.

    A witness without such a fact is any individual of its sort; there has to be one.
    """
    return fact.args[0].args[0] if fact.op == "or" and fact.args[0].op == "not" else None


def progress(spec: Spec, group: str, **sorts: Sort | str) -> Callable[[Callable[..., None]], Progress]:
    """Decorator: a function that fills in a `Progress` becomes a claim; its docstring is what users read.

    A parameter is given as a sort, or as INT.
    """
    parameters = tuple(Parameter(p, s.name if isinstance(s, Sort) else s) for p, s in sorts.items())

    def declare(body: Callable[..., None]) -> Progress:
        name = body.__name__.replace("_", " ")
        claim = Progress(name, group, parameters, inspect.getdoc(body) or "", spec)
        body(claim, *[p.expr for p in parameters])
        spec.progress[name] = claim
        return claim

    return declare


__all__ = ["Option", "Progress", "condition_of", "progress"]
