"""Prints every obligation as SMT-LIB 2.6, for any solver to check.

The text is printed from the specification itself, not from the prover's terms: invariants are quantified formulas over
the state before, the state after is a set of defined functions (`x.after`), and each question asks for a state in which
the claim is false. `unsat` is a proof. What the prover knows to be trivial is asked here as well.

One script for each transition, for each choice, for the initial state and for the side conditions of counters; for
liveness (ranking.py) one for each transition and one for single states. The
sections of a script after its preamble are independent (push and pop), each named by what it echoes.

Names: `x` and `x.after` are a state variable before and after, `x.initial` at the start; `t/p` is a parameter of the
transition, `?p` a bound variable, `E!V` a value of an enum. `inhabited/S`: the sort has individuals. In SMT-LIB every
sort has some, so whatever is assumed of everybody is assumed of inhabited sorts only, and who speaks of an individual
asserts that there is one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..language import counting, ranking_claims
from ..language.counting import Claim
from ..language.expressions import BOOL, INT, TICK, Expr, parameters_read
from ..language.progress import Progress, condition_of
from ..language.spec import Choice, Effect, Parameter, Property, Spec, Transition, Variable

NUMBERS = {BOOL: "Bool", INT: "Int", TICK: "Int"}


@dataclass(frozen=True)
class Question:
    """One section of a script. Its assertion has no model if the claim is right, unless `kind` is "vacuity"."""

    subject: str
    claim: str
    kind: str
    assertion: str

    @property
    def expected(self) -> str:
        """The good answer: "sat" where a state has to exist, else "unsat"."""
        return "sat" if self.kind == "vacuity" else "unsat"

    def text(self) -> str:
        """The section: its name, the assertion and `check-sat` between push and pop."""
        name = f"{self.subject}: {self.claim}".replace('"', '""')
        return f'(push 1)\n(echo "{name}")\n(assert {self.assertion})\n(check-sat)\n(pop 1)\n'


@dataclass(frozen=True)
class Script:
    """A file: a preamble that declares the state and asserts what is assumed, and the questions."""

    name: str
    preamble: str
    questions: tuple[Question, ...]

    def text(self) -> str:
        """The whole file."""
        return "\n".join([self.preamble, *[q.text() for q in self.questions]]) + "\n(exit)\n"


def symbol(name: str) -> str:
    """A name as an SMT-LIB symbol, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z~!@$%^&*_+=<>.?/-][A-Za-z0-9~!@$%^&*_+=<>.?/-]*", name) else f"|{name}|"


def apply(function: str, arguments: Sequence[str]) -> str:
    """An application; a function without arguments is a constant."""
    return f"({function} {' '.join(arguments)})" if arguments else function


def conjunction(parts: Sequence[str]) -> str:
    """All of them; nothing is true."""
    return parts[0] if len(parts) == 1 else f"(and {' '.join(parts)})" if parts else "true"


class Formulas:
    """Expressions as SMT-LIB terms. `names` gives a term for each parameter, `suffix` the state that is read."""

    def __init__(self, transition: str = "") -> None:
        self.transition = transition

    def term(self, e: Expr, names: Mapping[str, str], suffix: str = "", next_suffix: str = ".after") -> str:
        """The expression as a term."""
        if e.op == "lit":
            value = e.args[0]
            return str(value).lower() if e.type == BOOL else str(value) if value >= 0 else f"(- {-value})"
        if e.op == "enum":
            return symbol(f"{e.args[0].name}!{e.args[1]}")
        if e.op == "param":
            return names[e.args[0]]
        if e.op == "const":
            return symbol(e.args[0])
        if e.op == "read":
            index = [self.term(i, names, suffix, next_suffix) for i in e.args[1:]]
            return apply(symbol(e.args[0].name + suffix), index)
        if e.op == "next":
            return self.term(e.args[0], names, next_suffix, next_suffix)
        if e.op == "call":
            return self.term(e.meaning, names, suffix, next_suffix)
        if e.op == "taken":
            return "true" if e.args[0] == self.transition else "false"
        if e.op in ("and", "or"):
            parts = _same(e, e.op)
            a = [self.term(x, names, suffix, next_suffix) for x in parts]
            if e.op == "or" and parts[0].op == "not":  # if ... then ...
                condition = self.term(parts[0].args[0], names, suffix, next_suffix)
                return f"(=> {condition} {apply('or', a[1:]) if len(a) > 2 else a[1]})"
            return apply(e.op, a)
        a = [self.term(x, names, suffix, next_suffix) for x in e.args]
        function = {"eq": "=", "le": "<=", "lt": "<", "add": "+", "sub": "-"}.get(e.op, e.op)
        return apply(function, a)

    def for_all(
        self, claim: Claim | Property, names: Mapping[str, str] | None = None, suffix: str = "", after: str = ".after"
    ) -> str:
        """The claim for all values of its parameters."""
        bound = {p.name: symbol(f"?{p.name}") for p in claim.parameters}
        body = self.term(claim.formula, {**(names or {}), **bound}, suffix, after)
        variables = " ".join(f"({bound[p.name]} {NUMBERS.get(p.type, symbol(p.type))})" for p in claim.parameters)
        return f"(forall ({variables}) {body})" if variables else body


def _same(e: Expr, op: str) -> list[Expr]:
    """The parts of nested conjunctions or disjunctions."""
    e = e.meaning if e.op == "call" else e
    return [part for side in e.args for part in _same(side, op)] if e.op == op else [e]


class Exporter:
    """Makes the scripts of a specification."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.assumed = self._assumed()

    def scripts(self) -> Iterator[Script]:
        """All scripts, in the order of the specification."""
        yield self.initial()
        for transition in self.spec.transitions.values():
            yield self.transition(transition)
        for choice in self.spec.choices:
            yield self.choice(choice)
        for claim in self.spec.progress.values():
            yield self.progress(claim)
        if self.spec.stages:
            yield self.stages()
            for transition in self.spec.transitions.values():
                yield self.stages(transition)
        if self.spec.subsets or self.spec.tilings:
            yield self.parts()

    def initial(self) -> Script:
        """Every invariant and counter at the start, where every variable has its initial value."""
        formulas = Formulas()
        defined = [self._define(v, ".initial", symbols, formulas.term(v.init, {})) for v, symbols in self._variables()]
        claims: list[tuple[Property | Claim, str]] = [(p, p.kind) for p in self.spec.invariants()]
        claims += [(counting.right_at_the_start(count), "count") for count in self.spec.counts.values()]
        claims += [(claim, "conforming") for claim in self.spec.conforming.values()]
        questions = [
            Question("initial state", claim.name, kind, f"(not {formulas.for_all(claim, suffix='.initial')})")
            for claim, kind in claims
        ]
        preamble = self._preamble("The initial state.", [("The initial state", defined)], assume=False)
        return Script("initial", preamble, tuple(questions))

    def transition(self, transition: Transition) -> Script:
        """One transition against every property and counter."""
        formulas = Formulas(transition.name)
        names, _ = self._constants(transition.parameters)
        questions = [self._question(p, transition, formulas) for p in self.spec.properties.values()]
        written = {e.variable.name for e in transition.effects}
        for count in self.spec.counts.values():
            if count.reads & written:
                claim = counting.delta_rule(count, transition)
                wrong = self._wrong(claim, formulas.for_all(claim, names))
                questions.append(Question(transition.name, claim.name, "count", wrong))
        same = [self._unchanged(e, names, formulas) for e in transition.effects if not e.binders]
        questions.append(Question(transition.name, "no idle transition", "action", conjunction(same)))
        questions.append(Question(transition.name, "can be taken", "vacuity", self._alone(transition)))
        preamble = self._preamble(self._about(transition), self._taking(transition, names, formulas))
        return Script(f"transition-{transition.name}", preamble, tuple(questions))

    def stages(self, transition: Transition | None = None) -> Script:
        """Stages and conforming invariants (ranking.py): against one transition, or what concerns single states."""
        if transition is None:
            formulas, names = Formulas(), dict[str, str]()
            claims = list(ranking_claims.still_claims(self.spec))
            name, preamble = "liveness", self._preamble("Stages and their ranks.", [])
        else:
            formulas = Formulas(transition.name)
            names, _ = self._constants(transition.parameters)
            claims = list(ranking_claims.step_claims(self.spec, transition))
            preamble = self._preamble(self._about(transition), self._taking(transition, names, formulas))
            name = f"liveness-{transition.name}"
        questions = [
            Question(claim.transition or "liveness", claim.name, claim.kind, self._refuted(claim, names, formulas))
            for claim in claims
        ]
        return Script(name, preamble, tuple(questions))

    def _refuted(self, claim: ranking_claims.StageClaim, names: Mapping[str, str], formulas: Formulas) -> str:
        """Some individuals of whom everything given holds, and the goal not."""
        bound = {p.name: symbol(f"?{p.name}") for p in claim.everybody}
        parts = self.exist(claim.parameters)
        parts += [f"(= {names[parameter]} {formulas.term(e, bound)})" for parameter, e in claim.bound]
        parts += [formulas.term(h, bound) for h in claim.hypotheses]
        parts += self._witnessed(claim.witnesses, bound, formulas)
        parts += [self._of_all(known, bound, formulas) for known in claim.given]
        if claim.kind == "cover":
            parts.append(self._none_of(claim.outcomes, claim.witnesses, bound, formulas))
        else:
            parts.append(f"(not {formulas.term(claim.goal, bound)})")
        wrong = conjunction(parts)
        variables = " ".join(f"({bound[p.name]} {NUMBERS.get(p.type, symbol(p.type))})" for p in claim.everybody)
        return f"(exists ({variables}) {wrong})" if variables else wrong

    def choice(self, choice: Choice) -> Script:
        """Exactly one of the transitions is possible: no two at once, and never none."""
        formulas = Formulas()
        names, declared = self._constants(choice.parameters)
        when = [f"(assert {formulas.term(choice.when, names)})"]
        names |= {name: formulas.term(e, names) for name, e in choice.arguments.items()}
        enabled = {
            name: conjunction([formulas.term(g.condition, names) for g in self.spec.transitions[name].guards])
            for name in choice.transitions
        }
        none = conjunction([f"(not {guards})" for guards in enabled.values()])
        questions = [Question(choice.name, "one is possible", "choice", none)]
        questions += [
            Question(choice.name, f"{a} or {b}, not both", "choice", conjunction([enabled[a], enabled[b]]))
            for a, b in itertools.combinations(choice.transitions, 2)
        ]
        preamble = self._preamble(
            f"The choice between {', '.join(choice.transitions)}.", [("Parameters", declared), ("The case", when)]
        )
        return Script(f"choice-{choice.name.replace(' ', '-')}", preamble, tuple(questions))

    def progress(self, claim: Progress) -> Script:
        """In the situation of the claim, some option may be taken."""
        formulas = Formulas()
        witnesses = [parameter for parameter, _ in claim.witnesses]
        names, declared = self._constants((*claim.parameters, *witnesses), claim.parameters)
        when = [f"(assert {formulas.term(e, names)})" for e in claim.conditions]
        known = [f"(assert {fact})" for fact in self._witnessed(claim.witnesses, names, formulas)]
        known += [
            f"(assert {self._of_all(Claim(every.name, (every,), fact), names, formulas)})"
            for every, fact in claim.given
        ]
        none = self._none_of(claim.outcomes(), claim.witnesses, names, formulas)
        preamble = self._preamble(
            f"The progress claim: {claim.doc}",
            [("Parameters and witnesses", declared), ("The situation", when), ("What is known", known)],
        )
        question = Question(claim.name, "one is possible", "progress", none)
        return Script(f"progress-{claim.name.replace(' ', '-')}", preamble, (question,))

    def parts(self) -> Script:
        """Side conditions of counters over a part of what another counts, and of tilings."""
        questions = []
        for part, whole in self.spec.subsets:
            claim = counting.is_part(self.spec, part, whole)
            questions.append(Question(f"count {part}", claim.name, "count", f"(not {Formulas().for_all(claim)})"))
        for tiling in self.spec.tilings.values():
            for claim in counting.tiling_premises(self.spec, tiling):
                wrong = self._wrong(claim, Formulas().for_all(claim))
                questions.append(Question(f"count {tiling.counter}", claim.name, "count", wrong))
        return Script("parts", self._preamble("Side conditions of counters.", []), tuple(questions))

    def _about(self, transition: Transition) -> str:
        shown = f"{transition.name}({', '.join(p.name for p in transition.parameters)})"
        return f"The transition {shown}, taken by the {transition.actor}: {transition.doc}"

    def _taking(self, transition: Transition, names: dict[str, str], formulas: Formulas) -> list[tuple[str, list[str]]]:
        """The transition may be taken, and what the state after it is."""
        _, declared = self._constants(transition.parameters)
        guards = [f"(assert {formulas.term(g.condition, names)}) ; {g.name}" for g in transition.guards]
        after = [self._after(v, symbols, transition, names, formulas) for v, symbols in self._variables()]
        return [("Parameters", declared), ("Guards", guards), ("The state after", after)]

    def _question(self, p: Property, transition: Transition, formulas: Formulas) -> Question:
        if p.kind == "action" and p.given is not None:
            return Question(transition.name, p.name, p.kind, self._unless(p, p.given, formulas))
        goal = formulas.for_all(p) if p.kind == "action" else formulas.for_all(p, suffix=".after")
        return Question(transition.name, p.name, p.kind, self._wrong(p, goal))

    def _unless(self, p: Property, given: tuple[Parameter, Expr], formulas: Formulas) -> str:
        """Some individuals of whom the given fact holds for everybody, and the property not."""
        bound = {x.name: symbol(f"?{x.name}") for x in p.parameters}
        every = self._of_all(Claim(given[0].name, (given[0],), given[1]), bound, formulas)
        wrong = f"(not {formulas.term(p.formula, bound)})"
        variables = " ".join(f"({bound[x.name]} {NUMBERS.get(x.type, symbol(x.type))})" for x in p.parameters)
        return f"(exists ({variables}) {conjunction([*self.exist(p.parameters), every, wrong])})"

    def exist(self, parameters: Sequence[Parameter]) -> list[str]:
        """The sorts of these parameters have individuals."""
        return [
            symbol(f"inhabited/{sort}") for sort in dict.fromkeys(p.type for p in parameters) if sort in self.spec.sorts
        ]

    def _of_all(
        self, claim: Claim | Property, names: Mapping[str, str] | None = None, formulas: Formulas | None = None
    ) -> str:
        """The claim for everybody there is."""
        exist, text = self.exist(claim.parameters), (formulas or Formulas()).for_all(claim, names)
        return f"(=> {conjunction(exist)} {text})" if exist else text

    def _wrong(self, claim: Claim | Property, text: str) -> str:
        """The question whether the claim is false of somebody."""
        return conjunction([*self.exist(claim.parameters), f"(not {text})"])

    def _witnessed(
        self, witnesses: Sequence[tuple[Parameter, Expr]], names: Mapping[str, str], formulas: Formulas
    ) -> list[str]:
        """What is known of witnesses: the facts, and that whoever is found exists."""
        known = []
        for witness, fact in witnesses:
            known.append(formulas.term(fact, names))
            if (found := condition_of(fact)) is not None:
                known.append(f"(=> {formulas.term(found, names)} {self.exist([witness])[0]})")
        return known

    def _none_of(
        self,
        outcomes: Sequence[Expr],
        witnesses: Sequence[tuple[Parameter, Expr]],
        names: Mapping[str, str],
        formulas: Formulas,
    ) -> str:
        """No outcome holds of witnesses who exist."""
        sorts = {w.name: w for w, _ in witnesses}
        parts = []
        for e in outcomes:
            exist = self.exist([sorts[name] for name in sorted(parameters_read(e) & sorts.keys())])
            parts.append(f"(not {conjunction([*exist, formulas.term(e, names)])})")
        return conjunction(parts)

    def _alone(self, transition: Transition) -> str:
        """Of the sorts that the transition does not speak of there is nobody."""
        parts = []
        present = {p.type for p in transition.parameters}
        for sort in [s for s in self.spec.sorts.values() if s.name not in present and not s.inhabited]:
            size = self.spec.size(sort.name)
            parts += [
                f"(not {self.exist([Parameter('', sort.name)])[0]})",
                *([f"(= {symbol(size)} 0)"] if size else []),
            ]
        return conjunction(parts)

    def _variables(self) -> Iterator[tuple[Variable, list[str]]]:
        for v in self.spec.variables.values():
            yield v, [symbol(f"?{s.letter}{i}") for i, s in enumerate(v.sorts)]

    def _define(self, v: Variable, suffix: str, symbols: Sequence[str], body: str) -> str:
        bound = " ".join(f"({x} {symbol(s.name)})" for x, s in zip(symbols, v.sorts, strict=True))
        return f"(define-fun {symbol(v.name + suffix)} ({bound}) {NUMBERS.get(v.type, symbol(v.type))} {body})"

    def _after(
        self, v: Variable, symbols: list[str], transition: Transition, names: dict[str, str], formulas: Formulas
    ) -> str:
        body = apply(symbol(v.name), symbols)
        for effect in (e for e in transition.effects if e.variable is v):
            bound = {b.name for b in effect.binders}
            local, here = dict(names), []
            for x, i in zip(symbols, effect.index, strict=True):
                if i.op == "param" and i.args[0] in bound:
                    local[i.args[0]] = x
                else:
                    here.append(f"(= {x} {formulas.term(i, names)})")
            value = formulas.term(effect.value, local)
            body = f"(ite {conjunction(here)} {value} {body})" if here else value
        return self._define(v, ".after", symbols, body)

    def _unchanged(self, effect: Effect, names: dict[str, str], formulas: Formulas) -> str:
        index = [formulas.term(i, names) for i in effect.index]
        before, after = (apply(symbol(effect.variable.name + suffix), index) for suffix in ("", ".after"))
        return f"(= {after} {before})"

    def _constants(
        self, parameters: Sequence[Parameter], existing: Sequence[Parameter] | None = None
    ) -> tuple[dict[str, str], list[str]]:
        """Constants for parameters, of which some (all) are known to exist."""
        names = {p.name: symbol(f"t/{p.name}") for p in parameters}
        lines = [f"(declare-const {names[p.name]} {NUMBERS.get(p.type, symbol(p.type))})" for p in parameters]
        return names, lines + [f"(assert {e})" for e in self.exist(parameters if existing is None else existing)]

    def _assumed(self) -> list[tuple[str, list[str]]]:
        claims: dict[str, Sequence[Claim | Property]] = {
            "Invariants": self.spec.invariants(),
            "What is assumed of counters": counting.assumptions(self.spec),
        }
        return [
            (title, [f"(assert {self._of_all(c)}) ; {c.name}" for c in assumed]) for title, assumed in claims.items()
        ]

    def _preamble(self, about: str, parts: list[tuple[str, list[str]]], assume: bool = True) -> str:
        spec = self.spec
        enums = []
        for enum in spec.enums.values():
            values = " ".join(f"({symbol(f'{enum.name}!{value}')})" for value in enum.values)
            enums.append(f"(declare-datatypes (({symbol(enum.name)} 0)) (({values})))")
        variables = []
        for v in spec.variables.values():
            sorts = " ".join(symbol(s.name) for s in v.sorts)
            variables.append(f"(declare-fun {symbol(v.name)} ({sorts}) {NUMBERS.get(v.type, symbol(v.type))})")
        constants = []
        for name, (_, low, _) in spec.constants.items():
            constants += [f"(declare-const {symbol(name)} Int)", f"(assert (>= {symbol(name)} {low}))"]
        sorts_and_types = [f"(declare-sort {symbol(s)} 0)" for s in spec.sorts] + enums
        sorts_and_types += [f"(declare-const {e} Bool)" for e in self.exist([Parameter("", s) for s in spec.sorts])]
        never_empty = [Parameter("", s.name) for s in spec.sorts.values() if s.inhabited]
        sorts_and_types += [f"(assert {e})" for e in self.exist(never_empty)]
        state = [("Sorts and types", sorts_and_types), ("Constants", constants), ("The state", variables)]
        lines = [
            "(set-info :smt-lib-version 2.6)",
            f'(set-info :source "tokenspeed, specification {spec.name} {spec.digest()}")',
            "(set-logic UFDTLIA)",
            *[f"; {line}" for line in about.splitlines()],
            "; Expected: unsat for every question (no state contradicts the claim), but sat for one that ends in",
            '; "can be taken" (some state that satisfies the invariants allows the transition).',
        ]
        for title, content in [*state, *(self.assumed if assume else []), *parts]:
            lines += ["", f"; {title}.", *content]
        return "\n".join(lines) + "\n"


def export(spec: Spec, folder: Path) -> list[Script]:
    """Write all scripts into the folder as `NAME.smt2`; the same specification gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = list(Exporter(spec).scripts())
    for script in scripts:
        (folder / f"{script.name}.smt2").write_text(script.text(), encoding="utf-8", newline="\n")
    return scripts
