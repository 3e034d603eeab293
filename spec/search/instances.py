"""Small instances of the specification: how many individuals of each sort, and the values of the constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

SEARCH_CONSTANTS = ("MAX_PROMPT", "MAX_OUTPUT")
"""Bounds of the search: instances give them, though the specification has no such constants."""


class Scope(Protocol):
    """How many individuals of each sort there are, and the values of the constants."""

    @property
    def population(self) -> Mapping[str, int]:
        """Sort -> number of individuals."""

    @property
    def constants(self) -> Mapping[str, int]:
        """Constant -> value."""


@dataclass(frozen=True)
class Instance:
    """Sizes of one small instance: individuals, tokens per block, longest prompt and output (tokens)."""

    requests: int
    blocks: int
    steps: int
    page: int
    max_prompt: int
    max_output: int
    width: int = 1
    window: int = 99
    hosts: int = 1
    copies: int = 1

    @property
    def population(self) -> dict[str, int]:
        """How many individuals of each sort."""
        return {
            "Request": self.requests, "Block": self.blocks, "Step": self.steps, "Host": self.hosts,
            "Copy": self.copies,
        }  # fmt: skip

    @property
    def constants(self) -> dict[str, int]:
        """Values of the specification's constants, and the bounds of the exploration."""
        return {
            "PAGE": self.page, "BLOCKS": self.blocks, "ROOM": self.page * self.blocks, "HOSTS": self.hosts,
            "WIDTH": self.width, "WINDOW": self.window, "MAX_PROMPT": self.max_prompt, "MAX_OUTPUT": self.max_output,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.blocks} blocks of {self.page}, {self.steps} steps, "
            f"prompts up to {self.max_prompt}, outputs up to {self.max_output}"
        )


INSTANCES = tuple(
    Instance(requests, blocks, steps, page, prompt, output, width, window)
    for requests, blocks, steps in ((1, 2, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2), (2, 3, 2))
    for page, prompt, output, width, window in ((1, 2, 2, 1, 99), (2, 3, 2, 2, 99), (1, 2, 3, 2, 1))
)
"""From small to large; a violation is looked for in this order, so the first found is easy to read."""

LOCK_STEP = (
    Instance(1, 1, 1, page=1, max_prompt=1, max_output=2, width=1, window=1, hosts=0, copies=0),
    Instance(1, 2, 1, page=1, max_prompt=2, max_output=2, width=1, window=99),
    Instance(1, 2, 2, page=1, max_prompt=2, max_output=3, width=2, window=1),
    Instance(2, 2, 1, page=2, max_prompt=3, max_output=2, width=1, window=99),
    Instance(3, 4, 2, page=1, max_prompt=2, max_output=2, width=1, window=99),
    Instance(3, 4, 2, page=2, max_prompt=3, max_output=2, width=2, window=99),
    Instance(3, 4, 2, page=3, max_prompt=4, max_output=2, width=2, window=2),
)
"""Where the compiled scheduler is compared with the specification: small ones that are searched deep enough for every
transition, and pages of one, two and three tokens at three requests and four blocks.
"""

COMPILED = tuple(dict.fromkeys(tuple(i.population.items()) for i in (*INSTANCES, *LOCK_STEP)))
"""The populations for which the explorer is compiled."""
