"""Typed stubs of the compiled explorer, which is generated from the specification."""

from collections.abc import Callable
from typing import Final

SPEC_HASH: Final[str]
"""SHA-256 (hex) of the specification that was compiled in."""

class Divergence:
    """The compiled scheduler answers otherwise than the model."""

    @property
    def state(self) -> bytes:
        """The state in which it does, in the order of `layout.state_order`."""
    @property
    def transition(self) -> str: ...
    @property
    def arguments(self) -> list[int]:
        """As many as the transition has, then zeros."""
    @property
    def expected(self) -> int:
        """What the model answers: the number of the first false guard (from 1), or 0."""
    @property
    def answered(self) -> int:
        """What the scheduler answers."""
    @property
    def value(self) -> int:
        """The first byte of the state that is wrong afterwards, or -1 if the answers differ."""

class Result:
    """What a search found."""

    @property
    def states(self) -> int: ...
    @property
    def transitions(self) -> int: ...
    @property
    def depth(self) -> int:
        """Longest of the shortest ways to a state."""
    @property
    def complete(self) -> bool:
        """Whether all reachable states were visited."""
    @property
    def violated(self) -> str:
        """The property that is false at the end of `trace`; empty if none is."""
    @property
    def trace(self) -> list[tuple[str, list[int]]]:
        """Transition names with four arguments each (unused ones are 0), from the start; names are stable."""
    @property
    def taken(self) -> dict[str, int]:
        """How often each transition was taken."""
    @property
    def compared(self) -> int:
        """States in which the machine was asked."""
    @property
    def accepted(self) -> int:
        """Proposals that machine and model accept, with the same result."""
    @property
    def refused(self) -> int:
        """Proposals that both refuse for the same reason, and nothing changes."""
    @property
    def implied(self) -> int:
        """Refusals that the machine was not asked for: their guards read the same values in a state before."""
    @property
    def judged(self) -> int:
        """Different values that guards read; threads count for themselves."""
    @property
    def agrees(self) -> bool:
        """False if `ask` said so."""
    @property
    def refusing(self) -> set[str]:
        """Guards that were seen to refuse, in those of the states compared in which this is noted."""
    @property
    def divergences(self) -> list[Divergence]:
        """In the order of the search."""

class Explorer:
    """Searches one instance once. Raises ValueError if no instance with this population is compiled in."""

    def __init__(self, population: dict[str, int]) -> None: ...
    def explore(
        self,
        *,
        constants: dict[str, int],
        dropped: list[str] = ...,
        max_states: int = ...,
        check_lemmas: bool = ...,
        only: str = ...,
        reduce: bool = ...,
        threads: int = ...,
        machine: object = ...,
        every_refusal: bool = ...,
        check_properties: bool = ...,
        ask: Callable[[bytes, bytes, bytes, bytes, bytes], bool] | None = ...,
    ) -> Result:
        """Breadth first.

        `dropped`: guards, effects and whole transitions that are switched off. `only`: the one property or counter that
        is checked. `machine`: a capsule (`scheduler.STATE_ACCESS`) with which all states found are compared; or `ask`,
        which is called with states, counts and proposals as `StateMachine.answer` takes them and with the answers and
        next states that it must give, and says whether it does (by several threads). `every_refusal`: compare every
        refusal in every state, not only where the guards read values that they did not read before. Raises ValueError
        for an unknown name, or a machine that was generated from another specification.
        """
    @property
    def state_bytes(self) -> int:
        """Bytes of a state as `sample` gives it."""
    @property
    def packed_bytes(self) -> int:
        """Bytes that a state takes in memory, without the hash table."""
    def sample(self, first: int, stride: int) -> bytes:
        """Every `stride`-th of the states found, from number `first` on, one after the other."""
    def guards(self, constants: dict[str, int], stride: int) -> tuple[set[str], set[str]]:
        """The guards that are true, and those that are false, of some proposal in every `stride`-th state found.

        Each for itself, whatever the guards before it say, over all individuals and over integers from one below their
        ranges to one above. Raises ValueError if stride is 0.
        """
    def answers(self, constants: dict[str, int], state: bytes) -> list[tuple[str, list[int], int, bytes]]:
        """All proposals in a state: transition, arguments, number of the first false guard (or 0), next state if any.

        Guards over ghosts count as true.
        """
    def canonical(self, state: bytes, orders: list[list[int]]) -> bytes:
        """The normal form after individuals were renamed: `orders` says for each sort who comes first, second, ..."""
