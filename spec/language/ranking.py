"""Liveness: from certain situations something good comes at last, proved by stages and ranks, without bounds.

A *stage* is a situation of a few individuals: a condition, facts about everybody, and a *rank*, integers that are
compared lexicographically. Stages form a tree: a stage speaks of the individuals of its parent and of some of its own,
and is entered only inside its parent's situation. The root is left only when its goal comes (`ends`). What is proved of
every stage, for every transition that a conforming policy may take in it:

- *kept*: the goal comes, or the rank of a stage around it gets smaller, or the stage still holds of the same
  individuals and its own rank is not larger;
- *bounded*: no part of the rank is negative;
- *covered*, if it has stages inside: one of them holds, of individuals that are known to exist;
- *served*, if it has none: one of its helpful transitions may be taken;
- *advanced*: if a helpful transition is taken for the stage's individuals, the goal comes or some rank gets smaller,
  its own or that of a stage around it;
- *permitted*: no clause, of a stage or one that always holds, forbids what helps in it, or what clients, devices and
  copy engines do.

What follows is an argument, not something that a solver checks. Assume that in a leaf that lasts, if from some moment
on one of its helpful transitions can always be taken, one of them is taken (justice). Then from the root's situation
the goal comes: a leaf cannot last, since its rank falls only finitely often, and while it does not fall something
helpful can always be taken. A stage with stages inside cannot last either: one of them always holds until a rank
around it gets smaller, each ends, and the ranks around fall only finitely often. The tests try the rule on small
games by brute force.

A *clause* of the contract is a formula about one step, which a conforming policy keeps: always, or while a stage holds.
A *conforming invariant* holds in every state that is reached under the clauses that always hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_

from .counting import Claim
from .declarations import Parameter, Sort, Transition
from .expressions import Expr, SpecError, after, lift, still, substituted, variables_read
from .expressions import children as subexpressions
from .labels import new_name
from .progress import Progress
from .spec import Spec

Finder = Callable[..., Expr]
"""Finds an individual of a stage inside: a function of the parent's cover and individuals."""


@dataclass(frozen=True)
class Clause:
    """What a conforming policy keeps in every step, or in steps from states in which `stage` holds."""

    name: str
    doc: str
    parameters: tuple[Parameter, ...]
    formula: Expr
    stage: str | None = None

    def canonical(self) -> str:
        """A line of the canonical text."""
        return f"clause {self.name}{f' while {self.stage}' if self.stage else ''}: {self.formula}"


@dataclass(eq=False)
class Stage:
    """A situation with a rank. `facts` hold of everybody; `ends`: two-state formulas, of the root only."""

    name: str
    group: str
    doc: str
    spec: Spec
    parent: Stage | None
    own: tuple[Parameter, ...]
    cover: Progress
    conditions: list[Expr] = field(default_factory=list)
    facts: list[Claim] = field(default_factory=list)
    ranks: list[Expr] = field(default_factory=list)
    ends: list[Expr] = field(default_factory=list)
    clauses: list[Clause] = field(default_factory=list)
    children: list[Stage] = field(default_factory=list)

    # What a declaration says.

    def when(self, condition: Expr) -> None:
        """The situation."""
        self.conditions.append(still(self.name, condition))

    def for_all(self, sort: Sort, fact: Callable[[Expr], Expr]) -> None:
        """The situation: the fact holds of every individual of the sort."""
        every = Parameter(f"{self.name} {sort.letter}{len(self.facts)}", sort.name)
        if sort.name not in {p.type for p in self.parameters}:
            raise SpecError(f"{self.name}: a fact about every {sort.name}, and the stage is about none")
        self.facts.append(Claim(every.name, (every,), still(self.name, fact(every.expr))))

    def rank(self, *numbers: Expr) -> None:
        """What never gets larger while the stage lasts: the first number, then the second if the first stays, ..."""
        self.ranks += [still(self.name, n) for n in numbers]

    def ends_when(self, change: Expr) -> None:
        """The goal: a formula about two successive states."""
        self.ends.append(change)

    def helpful(self, transition: str, *arguments: Expr | int) -> None:
        """One of these transitions has to be taken at last. It counts for the stage's own individuals, whatever stands
        for other parameters.
        """
        self.cover.then(transition, *arguments)

    def contract(self, name: str, doc: str, formula: Expr) -> None:
        """While the stage holds, a conforming policy keeps this formula about two successive states."""
        new_name("clause", name, self.spec.clauses)
        clause = Clause(name, doc, self.parameters, formula, self.name)
        self.clauses.append(clause)
        self.spec.clauses[name] = clause

    # What follows.

    @property
    def path(self) -> list[Stage]:
        """The root, ..., the parent, this stage."""
        return [*(self.parent.path if self.parent else []), self]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The individuals of the root, ..., of this stage."""
        return tuple(p for stage in self.path for p in stage.own)

    @property
    def situation(self) -> tuple[Expr, ...]:
        """The conditions of this stage and of all around it."""
        return tuple(c for stage in self.path for c in stage.conditions)

    def advanced(self, written: set[str]) -> list[Expr]:
        """The goal has come, or the rank of a stage around this one is smaller.

        `written`: the only variables that may have changed; so also below. What cannot have changed is left out.
        """
        return [*self.path[0].ends, *[smaller(touched(stage.ranks, written)) for stage in self.path[:-1]]]

    def lasting(self, written: set[str]) -> tuple[tuple[Parameter, ...], Expr]:
        """The stage holds in the state after, with no larger rank. Parameters: a counterexample to each fact."""
        facts = [fact for fact in self.facts if variables_read(fact.formula) & written]
        parts = [after(c) for c in (*touched(self.conditions, written), *[fact.formula for fact in facts])]
        ranks = touched(self.ranks, written)
        if ranks:
            parts.append(smaller(ranks) | all_of([after(n) == n for n in ranks]))
        return tuple(p for fact in facts for p in fact.parameters), all_of(parts)

    def depends_on(self, written: set[str]) -> bool:
        """Whether its own condition or rank reads any of these variables."""
        formulas = [*self.conditions, *[fact.formula for fact in self.facts], *self.ranks]
        return bool(touched(formulas, written))

    def known(self) -> tuple[Claim, ...]:
        """What is known of everybody in a state where the stage holds."""
        facts = [fact for stage in self.path for fact in stage.facts]
        return (*facts, *self.spec.conforming.values())

    def kept_clauses(self, transition: Transition) -> tuple[Expr, ...]:
        """What a conforming policy keeps, for its individuals, when it takes this transition from this stage."""
        names = [clause.name for stage in self.path for clause in stage.clauses]
        clauses = [self.spec.clauses[name] for name in names if name in self.spec.clauses]
        return tuple(clause.formula for clause in clauses if concerns(clause.formula, transition))

    def canonical(self) -> list[str]:
        """Lines of the canonical text."""
        parts = [*map(str, self.conditions), *[f"all {fact.formula}" for fact in self.facts]]
        inside = f" in {self.parent.name}" if self.parent else ""
        lines = [f"stage {self.name}{inside}: {'; '.join(parts)} rank {', '.join(map(str, self.ranks))}"]
        lines += [f"  ends {e}" for e in self.ends]
        lines += [f"  witness {fact}" for _, fact in (*self.cover.witnesses, *self.cover.given)]
        lines += [f"  or {outcome}" for outcome in self.cover.alternatives]
        return lines + [f"  helpful {o.transition}({', '.join(map(str, o.arguments))})" for o in self.cover.options]


def stage(
    parent: Stage | Spec, group: str = "", **own: tuple[Sort, Finder] | Sort
) -> Callable[[Callable[..., None]], Stage]:
    """Decorator: a function that fills in a `Stage`; its name names it, its docstring is what users read.

    Individuals of its own are given as a sort and a function that finds them in the parent's situation.
    """

    def declare(body: Callable[..., None]) -> Stage:
        doc = inspect.getdoc(body) or ""
        name = body.__name__.replace("_", " ")
        return make_stage(parent, name, doc, body, group, **own)

    return declare


def make_stage(
    inside: Stage | Spec,
    name: str,
    doc: str,
    body: Callable[..., None],
    group: str = "",
    **own: tuple[Sort, Finder] | Sort,
) -> Stage:
    """A stage, with the parent's cover extended by it. Raises SpecError if its name is taken."""
    sorts = {p: kind if isinstance(kind, Sort) else kind[0] for p, kind in own.items()}
    mine = tuple(Parameter(p, sort.name) for p, sort in sorts.items())
    parent = inside if isinstance(inside, Stage) else None
    owner = inside.spec if isinstance(inside, Stage) else inside
    around = parent.parameters if parent else ()
    if name in owner.stages:
        raise SpecError(f"two stages named {name!r}")
    cover = Progress(name, group, (*around, *mine), doc, owner)
    made = Stage(name, group or (parent.group if parent else ""), doc, owner, parent, mine, cover)
    body(made, *[p.expr for p in made.parameters])
    owner.stages[name] = made
    if parent is not None:
        found = {
            p: kind[1](parent.cover, *[q.expr for q in around]) for p, kind in own.items() if not isinstance(kind, Sort)
        }
        parent.children.append(made)
        conditions = [substituted(c, found) for c in made.conditions]
        conditions += [substituted(fact.formula, found) for fact in made.facts]
        parent.cover.or_holds(all_of(conditions))
    return made


def contract(spec: Spec, **sorts: Sort) -> Callable[[Callable[..., Expr]], Clause]:
    """Decorator: a clause that a conforming policy keeps in every step."""
    parameters = tuple(Parameter(p, s.name) for p, s in sorts.items())

    def declare(formula: Callable[..., Expr]) -> Clause:
        name = formula.__name__.replace("_", " ")
        new_name("clause", name, spec.clauses)
        clause = Clause(name, inspect.getdoc(formula) or "", parameters, formula(*[p.expr for p in parameters]))
        spec.clauses[name] = clause
        return clause

    return declare


def conforming(spec: Spec, **sorts: Sort) -> Callable[[Callable[..., Expr]], Claim]:
    """Decorator: an invariant of what a conforming policy can reach."""
    parameters = tuple(Parameter(p, s.name) for p, s in sorts.items())

    def declare(formula: Callable[..., Expr]) -> Claim:
        name = formula.__name__.replace("_", " ")
        new_name("conforming invariant", name, spec.conforming, spec.properties)
        spec.conforming[name] = Claim(name, parameters, still(name, formula(*[p.expr for p in parameters])))
        return spec.conforming[name]

    return declare


def concerns(formula: Expr, transition: Transition) -> bool:
    """Whether a formula about a step may be false for this transition: it names it or reads what it writes."""
    changes = set[str]().union(*[variables_read(e) for e in _changes(formula)])
    return transition.name in _named(formula) or bool(changes & written_by(transition))


def helpful_transitions(spec: Spec) -> dict[str, list[str]]:
    """By actor, the transitions that have to be taken at last where they help."""
    helpful = {option.transition for s in spec.stages.values() for option in s.cover.options}
    found: dict[str, list[str]] = {}
    for transition in spec.transitions.values():
        if transition.name in helpful:
            found.setdefault(transition.actor, []).append(transition.name)
    return found


def smaller(ranks: Sequence[Expr]) -> Expr:
    """The rank is smaller in the state after, lexicographically."""
    result = lift(False)
    for n in reversed(ranks):
        result = (after(n) < n) | ((after(n) == n) & result)
    return result


def written_by(transition: Transition) -> set[str]:
    return {effect.variable.name for effect in transition.effects}


def touched(formulas: Sequence[Expr], written: set[str]) -> list[Expr]:
    return [f for f in formulas if variables_read(f) & written]


def _changes(e: Expr) -> Iterator[Expr]:
    """The parts that are read in the state after."""
    if e.op == "next":
        yield e
    for child in subexpressions(e):
        yield from _changes(child)


def _named(e: Expr) -> set[str]:
    """The transitions that are named."""
    return {e.args[0]} if e.op == "taken" else set[str]().union(*map(_named, subexpressions(e)))


def all_of(parts: Sequence[Expr]) -> Expr:
    return reduce(and_, parts) if parts else lift(True)


__all__ = ["Clause", "Stage", "conforming", "contract", "helpful_transitions", "make_stage", "stage"]
