"""Arrival times of traces whose numbers may be milliseconds or seconds, from the start or since 1970."""

from collections.abc import Sequence
from typing import Final

from ..errors import WorkloadError
from ..timebase import NS_PER_MS, NS_PER_S
from ..workload.options import TimeUnit

EPOCH_S: Final = 10**9
"""Seconds since 1970 are larger (2001 and later); seconds since the start of a trace never are."""
EPOCH_MS: Final = 10**11
"""Milliseconds since 1970 are larger (1973 and later). Between this and `EPOCH_S` the unit cannot be told."""


def arrival_ns(times: Sequence[int | float], unit: TimeUnit, name: str, field: str) -> tuple[list[int], str]:
    """Nanoseconds of arrival, and how the numbers were read, in words.

    Times since 1970 are counted from the earliest. Raises WorkloadError if the unit cannot be told from the numbers.
    """
    if not times:
        return [], "none"
    least = min(times)
    if unit is TimeUnit.AUTO:
        fraction = next((time for time in times if time != time // 1), None)
        if fraction is not None or EPOCH_S <= least < EPOCH_MS:
            like = "seconds since 1970" if fraction is None else "seconds, or fractions of milliseconds"
            raise WorkloadError(
                f"{name}: field {field!r} holds {least if fraction is None else fraction}, which looks like {like}, "
                "where whole milliseconds are usual; say which with --time-unit ms or --time-unit s"
            )
    factor = NS_PER_S if unit is TimeUnit.SECONDS else NS_PER_MS
    word = "seconds" if unit is TimeUnit.SECONDS else "milliseconds"
    since_1970 = least >= (EPOCH_S if unit is TimeUnit.SECONDS else EPOCH_MS)
    origin = least if since_1970 else 0
    words = f"{word} since 1970, counted from the first arrival" if since_1970 else f"{word} from the start"
    return [round((time - origin) * factor) for time in times], words
