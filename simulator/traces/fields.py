"""Checked access to the fields of a trace's records. Errors name place, field and value, and what it must be."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError


def parse_json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, or a number of absurd length
        raise WorkloadError(f"{where}: not valid JSON ({error}); is the file complete?") from error
    if not isinstance(value, dict):
        raise WorkloadError(f"{where}: must be a JSON object, but is {_shown(value)}")
    return value


def integer(record: Mapping[str, Any], field: str, where: str, least: int = 0, most: int = 10**9) -> int:
    """The whole number in `field`, from `least` to `most`."""
    value = _present(record, field, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise WorkloadError(
            f"{where}: field {field!r} is {_shown(value)}; it must be a whole number from {least} to {most}"
        )
    return value


def seconds(record: Mapping[str, Any], field: str, where: str) -> float:
    """The time in `field`, at least 0."""
    value = _present(record, field, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise WorkloadError(f"{where}: field {field!r} is {_shown(value)}; it must be a number of seconds, at least 0")
    return float(value)


def optional_seconds(record: Mapping[str, Any], field: str, where: str) -> float | None:
    """The time in `field`, or None where it is missing or null."""
    return None if record.get(field) is None else seconds(record, field, where)


def text(record: Mapping[str, Any], field: str, where: str) -> str:
    """The string in `field`."""
    value = _present(record, field, where)
    if not isinstance(value, str) or not value.isprintable():
        raise WorkloadError(f"{where}: field {field!r} is {_shown(value)}; it must be a string of printable characters")
    return value


def items(record: Mapping[str, Any], field: str, where: str) -> list[Any]:
    """The list in `field`."""
    value = _present(record, field, where)
    if not isinstance(value, list):
        raise WorkloadError(f"{where}: field {field!r} is {_shown(value)}; it must be a list")
    return value


def block_ids(record: Mapping[str, Any], field: str, where: str) -> NDArray[np.int64]:
    """[n] the non-negative block ids in `field`."""
    value = items(record, field, where)
    try:
        ids = np.array(value, dtype=np.int64) if value else np.empty(0, dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        raise WorkloadError(f"{where}: field {field!r} holds something that is not a whole number") from None
    if ids.ndim != 1 or (ids < 0).any():
        raise WorkloadError(f"{where}: field {field!r} must be a flat list of whole numbers, at least 0")
    return ids


def _present(record: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in record:
        raise WorkloadError(
            f"{where}: field {field!r} is missing; it has {', '.join(map(repr, record)) or 'no fields'}"
        )
    return record[field]


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
