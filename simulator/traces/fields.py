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
        raise WorkloadError(f"{where}: must be a JSON object, but is {shown(value)}")
    return value


def integer(record: Mapping[str, Any], field: str, where: str, least: int = 0, most: int = 10**9) -> int:
    """The whole number in `field`, from `least` to `most`."""
    value = _present(record, field, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise WorkloadError(
            f"{where}: field {field!r} is {shown(value)}; it must be a whole number from {least} to {most}"
        )
    return value


def seconds(record: Mapping[str, Any], field: str, where: str) -> float:
    """The time in `field`, at least 0."""
    value = _present(record, field, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise WorkloadError(f"{where}: field {field!r} is {shown(value)}; it must be a number of seconds, at least 0")
    return float(value)


def optional_seconds(record: Mapping[str, Any], field: str, where: str) -> float | None:
    """The time in `field`, or None where it is missing or null."""
    return None if record.get(field) is None else seconds(record, field, where)


def text(record: Mapping[str, Any], field: str, where: str) -> str:
    """The string in `field`."""
    value = _present(record, field, where)
    if not isinstance(value, str) or not value.isprintable():
        raise WorkloadError(f"{where}: field {field!r} is {shown(value)}; it must be a string of printable characters")
    return value


def items(record: Mapping[str, Any], field: str, where: str) -> list[Any]:
    """The list in `field`."""
    value = _present(record, field, where)
    if not isinstance(value, list):
        raise WorkloadError(f"{where}: field {field!r} is {shown(value)}; it must be a list")
    return value


def block_ids(record: Mapping[str, Any], field: str, where: str) -> NDArray[np.int64]:
    """[n] the non-negative block ids in `field`. Ids like 3.0 are read, 0.5 and true are not ids."""
    value = items(record, field, where)
    try:
        ids = np.array(value) if value else np.empty(0, dtype=np.int64)
    except ValueError:
        ids = np.empty((0, 0))  # lists of different lengths
    kinds = set(map(type, value))
    whole = kinds <= {int} or (kinds <= {int, float} and bool(np.all(np.mod(ids, 1) == 0)))
    if not whole or ids.ndim != 1 or ids.dtype.kind not in "if":
        wrong = next((item for item in value if not _is_id(item)), value)
        raise WorkloadError(f"{where}: field {field!r} holds {shown(wrong)}, which is not a whole number below 2^53")
    if len(ids) and (ids.min() < 0 or ids.max() >= 2**53):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise WorkloadError(f"{where}: field {field!r} holds {wrong}; ids are whole numbers from 0 to 2^53 - 1")
    return ids.astype(np.int64)


def _is_id(item: Any) -> bool:
    return not isinstance(item, bool) and isinstance(item, int | float) and item == item // 1 and 0 <= item < 2**53


def number(record: Mapping[str, Any], field: str, where: str, most: float = 1e14) -> int | float:
    """The number in `field`, from 0 to `most`."""
    value = _present(record, field, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise WorkloadError(f"{where}: field {field!r} is {shown(value)}; it must be a number from 0 to {most:g}")
    return value


def optional_text(record: Mapping[str, Any], field: str, where: str) -> str | None:
    """The string or whole number in `field` as text, or None where it is missing or null."""
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value is None else text(record, field, where)


def _present(record: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in record:
        raise WorkloadError(
            f"{where}: field {field!r} is missing; it has {', '.join(map(repr, record)) or 'no fields'}"
        )
    return record[field]


def shown(value: Any) -> str:
    """The value as text, cut to a readable length."""
    written = repr(value)
    return written if len(written) <= 40 else written[:37] + "..."
