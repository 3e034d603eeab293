"""Holds the compiled scheduler to the specification in every state of small instances.

Three evaluations of the same specification must agree. The explorer's model finds the states and answers every proposal
in each; the machine of the extension that serves is put into each state and must give the same answers: the same first
false guard and not a byte changed, or the same next state. On a sample the interpreter answers too.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..language.expressions import BOOL, variables_read
from ..language.labels import guard_labels
from ..language.spec import Spec, Transition
from ..search._explorer import Divergence, Explorer
from ..search.instances import Instance
from ..search.interpreter import Interpreter, State
from ..search.state_order import cells, shared_order, state_order

GUARDS_SAMPLED = 20_000
"""In about as many states of an instance each guard is looked at for itself."""


@dataclass(frozen=True)
class Disagreement:
    """One proposal that is answered in two ways. `state`: the values that are not initial, as text."""

    who: str
    state: str
    proposal: str
    expected: str
    answered: str

    def __str__(self) -> str:
        return (
            f"{self.proposal}: the specification {self.expected}, {self.who} {self.answered}; in the state {self.state}"
        )


@dataclass
class LockStepReport:
    """What was compared in one instance. `complete`: all reachable states. `refused`: refusals that the machine was
    asked for, `implied`: those whose guards read the same values in a state before, one of `judged` combinations.
    `taken`: transitions that were accepted, `refusing`: guards that were seen to be the first false one; `true` and
    `false`: guards that were so of some proposal, whatever the guards before them say.
    """

    instance: Instance
    states: int = 0
    depth: int = 0
    complete: bool = False
    accepted: int = 0
    refused: int = 0
    implied: int = 0
    judged: int = 0
    violated: str = ""
    taken: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    true: set[str] = field(default_factory=set)
    false: set[str] = field(default_factory=set)
    sampled: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sample_seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Everything was answered alike, and no property is false."""
        return not self.disagreements and not self.violated


@dataclass(frozen=True)
class Differs:
    """As `Divergence`."""

    state: bytes
    transition: str
    arguments: list[int]
    expected: int
    answered: int
    value: int


class Asked:
    """Asks machines through Python, one for each thread of the search, and compares what they answer."""

    def __init__(self, lock_step: LockStep, machine: Callable[[list[int], list[int]], Any]) -> None:
        self.lock_step, self.machine = lock_step, machine
        self.of_thread = threading.local()
        self.disagreements: list[Disagreement] = []
        constants = lock_step.instance.constants
        self.size = [constants[name] for name in lock_step.spec.constants], list(lock_step.instance.population.values())

    def __call__(self, states: bytes, counts: bytes, proposals: bytes, answers: bytes, after: bytes) -> bool:
        """Whether the machine gives just these answers and next states."""
        if not hasattr(self.of_thread, "machine"):
            self.of_thread.machine = self.machine(*self.size)
        answered, reached = self.of_thread.machine.answer(states, counts, proposals)
        if answered == answers and reached == after:
            return True
        self.disagreements.append(self._first(states, counts, proposals, (answers, after), (answered, reached)))
        return False

    def _first(
        self, states: bytes, counts: bytes, proposals: bytes, expected: tuple[bytes, bytes], given: tuple[bytes, bytes]
    ) -> Disagreement:
        numbers = [n for (n,) in struct.iter_unpack("=I", counts)]
        size = len(states) // len(numbers)
        owners = [i for i, number in enumerate(numbers) for _ in range(number)]
        accepted = 0
        for i, owner in enumerate(owners):
            state, proposal = states[owner * size : (owner + 1) * size], proposals[8 * i : 8 * (i + 1)]
            right, answer = (int.from_bytes(side[0][2 * i : 2 * (i + 1)], sys.byteorder) for side in (expected, given))
            if right != answer:
                return self.lock_step.differs(state, proposal, right, answer, -1)
            if right == 0:
                at = accepted * size
                pairs = zip(expected[1][at : at + size], given[1][at : at + size], strict=True)
                wrong = [value for value, (one, other) in enumerate(pairs) if one != other]
                if wrong:
                    return self.lock_step.differs(state, proposal, right, answer, wrong[0])
                accepted += 1
        raise AssertionError("the answers differ, but none of them does")


class LockStep:
    """Compares a machine (a capsule, `scheduler.STATE_ACCESS`) with the specification in one instance."""

    def __init__(self, spec: Spec, instance: Instance, machine: object, thorough: bool = False) -> None:
        """`machine`: `scheduler.STATE_ACCESS`, or the class `scheduler.StateMachine`: then all goes through Python.

        `thorough`: ask for every refusal in every state, and check the properties of all states too.
        """
        self.spec, self.instance, self.machine, self.thorough = spec, instance, machine, thorough
        self.labels = guard_labels(spec)
        self.numbers = {label: i for i, label in enumerate(self.labels, start=1)}
        self.ghosts = {v.name for v in spec.variables.values() if v.ghost}
        self.interpreter = Interpreter(spec, instance.constants)
        self.explorer = Explorer(instance.population)

    def run(self, states: int, threads: int, sampled: int = 100) -> LockStepReport:
        """Compare at least `states` states (fewer if there are fewer), and `sampled` of them with the interpreter."""
        start, cpu_start = time.perf_counter(), time.process_time()
        asked = Asked(self, self.machine) if isinstance(self.machine, type) else None
        found = self.explorer.explore(
            constants=self.instance.constants, max_states=states, threads=threads, every_refusal=self.thorough,
            check_properties=self.thorough, machine=None if asked else self.machine, ask=asked,
        )  # fmt: skip
        report = LockStepReport(
            self.instance, found.compared, found.depth, found.complete, found.accepted, found.refused,
            found.implied, found.judged,
        )  # fmt: skip
        report.violated = found.violated
        report.taken = {name for name, times in found.taken.items() if times}
        report.refusing = found.refusing
        report.disagreements = [self._explain(d) for d in found.divergences] + (asked.disagreements if asked else [])
        report.seconds, report.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        report.true, report.false = self.explorer.guards(
            self.instance.constants, max(1, found.states // GUARDS_SAMPLED)
        )
        for state in self._sample(max(1, found.states // sampled) if sampled else found.states + 1):
            report.sampled += 1
            report.disagreements += self.ask_interpreter(state)
        report.sample_seconds = time.perf_counter() - start - report.seconds
        return report

    def _sample(self, stride: int) -> Iterator[bytes]:
        size = self.explorer.state_bytes
        some = self.explorer.sample(stride - 1, stride)
        for at in range(0, len(some), size):
            yield some[at : at + size]

    def decode(self, state: bytes) -> State:
        """The interpreter's form of a state."""
        result = self.interpreter.start()
        at = 0
        for v in state_order(self.spec):
            sizes = [self.instance.population[s.name] for s in v.sorts]
            for i in range(cells(v, self.instance.population)):
                index: list[int] = []
                rest = i
                for size in reversed(sizes):
                    rest, digit = divmod(rest, size)
                    index.insert(0, digit)
                raw = state[at] - 256 if state[at] > 127 else state[at]
                value = self.spec.enums[v.type].values[raw] if v.type in self.spec.enums else raw
                result.set(v.name, tuple(index), bool(raw) if v.type == BOOL else value)
                at += 1
        return result

    def ask_interpreter(self, state: bytes) -> list[Disagreement]:
        """All proposals in one state, answered by the interpreter and by the explorer's model."""
        before = self.decode(state)
        wrong = []
        for name, arguments, number, after in self.explorer.answers(self.instance.constants, state):
            transition = self.spec.transitions[name]
            bindings = dict(zip((p.name for p in transition.parameters), arguments, strict=False))
            expected = self._first_false(before, transition, bindings)
            if expected != number:
                answers = self._answer(expected), self._answer(number)
            elif number == 0 and self.decode(after).values != self._apply(before, transition, bindings).values:
                answers = "reaches another state", "reaches its own"
            else:
                continue
            wrong.append(Disagreement("the model", show(before), self._proposal(name, arguments), *answers))
        return wrong

    def _apply(self, before: State, transition: Transition, bindings: dict[str, int]) -> State:
        return self.interpreter.apply(before, transition, bindings, self.instance.population, check=False)

    def _first_false(self, state: State, transition: Transition, bindings: dict[str, int]) -> int:
        """Guards over ghosts are left out: a release build does not have them."""
        for guard in transition.guards:
            ghostly = variables_read(guard.condition) & self.ghosts
            if not ghostly and not self.interpreter.evaluate(guard.condition, bindings, state):
                return self.numbers[f"{transition.name}:{guard.name}"]
        return 0

    def _answer(self, number: int) -> str:
        if number == 0:
            return "accepts"
        if number > len(self.labels) + 1:
            return "says something that no guard says, or changes what is no value of a state"
        return f"refuses by {self.labels[number - 1]!r}" if number <= len(self.labels) else "says index out of range"

    def _proposal(self, name: str, arguments: list[int]) -> str:
        parameters = self.spec.transitions[name].parameters
        shown = [
            f"{self.spec.sorts[p.type].letter}{a}" if p.type in self.spec.sorts else f"{p.name}={a}"
            for p, a in zip(parameters, arguments, strict=False)
        ]
        return f"{name}({', '.join(shown)})"

    def differs(self, state: bytes, proposal: bytes, expected: int, answered: int, value: int) -> Disagreement:
        """The scheduler answers a proposal (as `StateMachine` takes it) otherwise; `value`: as in `Divergence`."""
        name = list(self.spec.transitions)[proposal[0]]
        whole = state.ljust(self.explorer.state_bytes, bytes(1))
        return self._explain(Differs(whole, name, [b - 256 if b > 127 else b for b in proposal[1:5]], expected,
                                     answered, value))  # fmt: skip

    def _explain(self, d: Divergence | Differs) -> Disagreement:
        expected, answered = self._answer(d.expected), self._answer(d.answered)
        if d.value >= 0:
            expected, answered = f"{expected}", f"then has another value of {self._value(d.value)}"
        state = show(self.decode(d.state))
        return Disagreement("the scheduler", state, self._proposal(d.transition, d.arguments), expected, answered)

    def _value(self, at: int) -> str:
        """What the byte at this place is called: refs b1."""
        for v in shared_order(self.spec):
            count = cells(v, self.instance.population)
            if at < count:
                names: list[str] = []
                for sort in reversed(v.sorts):
                    at, digit = divmod(at, self.instance.population[sort.name])
                    names.insert(0, f"{sort.letter}{digit}")
                return " ".join([v.name, *names])
            at -= count
        return "the block tables or of other memory that is no value of a state"


def show(state: State) -> str:
    """The values that are not initial: `refs(1)=2, ...`."""
    parts = []
    for name, values in state.values.items():
        for index, value in sorted(values.items()):
            place = f"{name}({', '.join(map(str, index))})" if index else name
            parts.append(f"{place}={value}")
    return ", ".join(parts) or "at the start"
