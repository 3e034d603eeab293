"""What a reader leaves out: records that cannot be read, and fields that nothing uses. Nothing of it stays silent."""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from ..errors import WorkloadError

MOST_FIELDS = 12
"""Names of unused fields shown at most."""


class Notices:
    """Counts while a trace is read; what it says goes into reports and to the terminal."""

    def __init__(self, skip_bad: bool) -> None:
        self._skip_bad = skip_bad
        self._bad: list[str] = []
        self._unused: Counter[str] = Counter()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Read one record inside: an error ends the reading, or with `skip_bad` only leaves the record out."""
        try:
            yield
        except WorkloadError as error:
            if not self._skip_bad:
                raise
            self._bad.append(str(error))

    def unused(self, record: Mapping[str, Any], known: Set[str]) -> None:
        """Count the fields of `record` that are not in `known`."""
        self._unused.update(record.keys() - known)

    def warnings(self, what: str) -> tuple[str, ...]:
        """One sentence for each kind of thing that was left out. `what`: what a record is called, in the plural."""
        said = []
        if self._bad:
            said.append(f"{len(self._bad):,} {what} cannot be read and are left out; the first: {self._bad[0]}")
        if self._unused:
            most = [f"{field!r} ({count:,})" for field, count in sorted(self._unused.items())[:MOST_FIELDS]]
            more = len(self._unused) - len(most)
            said.append(f"fields that are not used: {', '.join(most)}{f' and {more} more' if more > 0 else ''}")
        return tuple(said)
