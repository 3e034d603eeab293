"""Typed stubs of the compiled explorer, which is generated from the specification."""

from typing import Final

SIZES: Final[tuple[tuple[int, int, int], ...]]
"""(requests, blocks, steps) that are compiled in."""

SPEC_HASH: Final[str]
"""SHA-256 (hex) of the specification that was compiled in."""

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
        """Transition names with four arguments each (unused ones are 0), from the start."""
    @property
    def taken(self) -> dict[str, int]:
        """How often each transition was taken."""

def explore(
    *,
    requests: int,
    blocks: int,
    steps: int,
    constants: dict[str, int],
    dropped: list[str] = ...,
    max_states: int = ...,
    check_lemmas: bool = ...,
    only: str = ...,
) -> Result:
    """Search one instance breadth first.

    `dropped`: guards, effects and whole transitions that are switched off. `only`: the one property or counter that is
    checked. Raises ValueError for a name that does not exist or a size that is not compiled in.
    """
