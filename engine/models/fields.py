"""Reading a config.json: every field is checked as it is read, and an error names the field, its value and the fix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final


class UnsupportedModel(ValueError):
    """The checkpoint asks for something that is not implemented; the message names the field and its value."""


LARGEST: Final = 2**24
"""No size of a model is larger; what is, is a damaged file, and would end in an allocation of terabytes."""


class Fields:
    """The fields of a model's configuration."""

    def __init__(
        self, raw: Mapping[str, Any], source: str = "config.json", shown: Mapping[str, str] | None = None
    ) -> None:
        """`source`: what errors call the file. `shown`: what they call a field, where the file names it otherwise."""
        self.raw = raw
        self.source = source
        self._shown = shown or {}

    def with_values(self, **values: Any) -> Fields:
        """The same file with other values."""
        return Fields({**self.raw, **values}, self.source, self._shown)

    def error(self, field: str, value: object, expected: str) -> UnsupportedModel:
        """The error of a field whose value does not do."""
        return UnsupportedModel(f"{self.source}: {self.name(field)}={value!r} is not supported: {expected}")

    def name(self, field: str) -> str:
        """What the file calls the field."""
        return self._shown.get(field, field)

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(field) is not None

    def integer(self, field: str, default: int | None = None, *, least: int = 1, most: int = LARGEST) -> int:
        """A whole number. Raises UnsupportedModel if it is absent without a default, or out of range."""
        value = self.raw.get(field)
        if value is None:
            if default is None:
                raise UnsupportedModel(f"{self.source} lacks {self.name(field)!r}")
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise self.error(field, value, "give a whole number")
        if not least <= value <= most:
            raise self.error(field, value, f"give a number from {least} to {most}")
        return int(value)

    def number(self, field: str, default: float | None = None, *, zero: bool = False) -> float:
        """A finite number above 0 (`zero`: or 0). Raises UnsupportedModel."""
        value = self.raw.get(field)
        if value is None:
            if default is None:
                raise UnsupportedModel(f"{self.source} lacks {self.name(field)!r}")
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(field, value, "give a finite number")
        if value < 0 or (value == 0 and not zero):
            raise self.error(field, value, "give a number above 0")
        return float(value)

    def flag(self, field: str, default: bool = False) -> bool:
        """True or false. Raises UnsupportedModel."""
        value = self.raw.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, value, "give true or false")
        return value

    def only(self, field: str, *allowed: object, default: object = None) -> Any:
        """The value of a field that may have few; the first of them if it is absent and there is no default.

        Raises UnsupportedModel.
        """
        value = self.raw.get(field)
        if value is None:
            return allowed[0] if default is None else default
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise self.error(field, value, f"only {' and '.join(repr(a) for a in allowed)} are implemented")
        return value

    def section(self, *fields: str) -> Fields:
        """The first of these fields that is there, an object; an empty one if none is. Raises UnsupportedModel."""
        for field in fields:
            value = self.raw.get(field)
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise self.error(field, value, "give an object")
            return Fields(value, f"{self.source}, {self.name(field)}")
        return Fields({}, self.source)

    def indices(self, field: str) -> Sequence[int]:
        """A list of layer numbers; empty if absent. Raises UnsupportedModel."""
        value = self.raw.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
            raise self.error(field, value, "give a list of layer numbers")
        return tuple(value)
