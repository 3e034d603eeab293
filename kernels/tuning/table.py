"""Tables of tuned choices: one JSON file for each kernel, keyed by device, Triton version and shape bucket."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

FOLDER = Path(__file__).parent

Choice = Mapping[str, int]
"""What a kernel chooses for a launch, by name: splits, tile sizes, warps."""
_Key = tuple[str, str, tuple[tuple[str, int], ...]]


def bucket(shape: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The bucket of a shape: every size rounded up to a power of two, in the order of the names."""
    return tuple((name, 1 << (size - 1).bit_length() if size > 0 else 0) for name, size in sorted(shape.items()))


@dataclass(frozen=True, slots=True)
class Entry:
    """The best choice for one bucket.

    device: as torch names it; triton: its version; shape: the measured one, which stands for its bucket;
    us: microseconds of a call with the choice; rule_us: with the kernel's own rule, in the same run.
    """

    device: str
    triton: str
    shape: Mapping[str, int]
    choice: Choice
    us: float
    rule_us: float

    @property
    def key(self) -> _Key:
        """What a lookup must match."""
        return self.device, self.triton, bucket(self.shape)


class Table:
    """The entries of one kernel."""

    def __init__(self, operation: str, kernel: str, entries: Iterable[Entry] = ()) -> None:
        self.operation = operation
        self.kernel = kernel
        self._entries = {entry.key: entry for entry in entries}

    @classmethod
    def load(cls, operation: str, kernel: str, folder: Path = FOLDER) -> Table:
        """Read the kernel's file; an empty table if there is none. Raises ValueError naming a file that is no table."""
        path = folder / f"{operation}.{kernel}.json"
        if not path.exists():
            return cls(operation, kernel)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            entries = [Entry(**entry) for entry in content["entries"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a tuning table ({error}): write it anew with `python -m tokenspeed.kernels.tuning`"
            ) from error
        return cls(operation, kernel, entries)

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the kernel's file, entries in a fixed order. Returns its path."""
        path = folder / f"{self.operation}.{self.kernel}.json"
        lines = [json.dumps(asdict(self._entries[key])) for key in sorted(self._entries)]
        path.write_text('{"entries": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
        return path

    def entries(self) -> tuple[Entry, ...]:
        """All entries, sorted by device, version and bucket."""
        return tuple(self._entries[key] for key in sorted(self._entries))

    def find(self, device: str, triton: str, shape: Mapping[str, int]) -> Choice | None:
        """The choice for a shape's bucket, or None."""
        entry = self._entries.get((device, triton, bucket(shape)))
        return None if entry is None else entry.choice

    def replace(self, device: str, triton: str, entries: Iterable[Entry]) -> None:
        """Put `entries` in the place of all that this device and version have."""
        kept = {key: entry for key, entry in self._entries.items() if key[:2] != (device, triton)}
        self._entries = kept | {entry.key: entry for entry in entries}


def tuned(operation: str, kernel: str, device: torch.device, **shape: int) -> Choice | None:
    """The choice measured for this kernel, this device, the installed Triton and the shape's bucket; None if none was.

    Looks up a dictionary: no file is read after the first call, and nothing is timed.
    """
    if device.type != "cuda":
        return None
    return _table(operation, kernel).find(device_name(device), triton_version(), shape)


@functools.cache
def _table(operation: str, kernel: str) -> Table:
    return Table.load(operation, kernel)


@functools.cache
def device_name(device: torch.device) -> str:
    """The name under which a device's entries are kept."""
    return torch.cuda.get_device_name(device)


@functools.cache
def triton_version() -> str:
    """The version of the Triton that is installed."""
    import triton

    return str(triton.__version__)
