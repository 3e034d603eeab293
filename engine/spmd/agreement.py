"""Values that all ranks of the world are known to share.

If ranks decide by values of their own, sooner or later one of them skips a collective and the others wait for ever.
So a plan takes only `Uniform` values, and only `agree` (runtime/collectives.py) makes these, after asking every rank.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

_SEAL: Final = object()


class Disagreement(RuntimeError):
    """Ranks hold different values of what must be the same everywhere; the message lists them."""


@dataclass(frozen=True, slots=True)
class Uniform(Generic[T_co]):
    """A value that every rank of the world has. Made by `agree`, never by hand."""

    value: T_co
    _seal: object = None

    def __post_init__(self) -> None:
        if self._seal is not _SEAL:
            raise TypeError("a Uniform value is made by agree(), which asks all ranks; it cannot be made by hand")


def agreed(name: str, values: list[T_co]) -> Uniform[T_co]:
    """The value that every rank sent, in the order of ranks. Raises Disagreement naming who sent what."""
    if not values:
        raise Disagreement(f"{name}: no rank sent a value")
    if any(value != values[0] for value in values):
        listed = "; ".join(f"rank {rank} has {value!r}" for rank, value in enumerate(values))
        raise Disagreement(f"{name} differs between ranks: {listed}")
    return Uniform(values[0], _SEAL)
