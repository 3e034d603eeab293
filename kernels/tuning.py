"""Tables of what was found fastest on devices that were measured: JSON files beside the kernels that read them.

Offline tuners in `benchmarks/kernels` write the entry of the device that they run on. Nothing is timed while serving: a
device, a version of triton or a shape without an entry gets the kernel's default.
"""

from __future__ import annotations

import functools
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

Entry = dict[str, int]
Table = dict[str, dict[str, list[Entry]]]
"""{device name: {"triton x.y.z": entries}}, in the order in which they are tried."""


def entries_for(table: Path, device: torch.device) -> list[Entry]:
    """The table's entries for this device and the installed triton; none for the CPU."""
    if device.type != "cuda":
        return []
    try:
        triton = f"triton {version('triton')}"
    except PackageNotFoundError:
        return []
    return look_up(table, torch.cuda.get_device_name(device), triton)


def look_up(table: Path, device_name: str, triton: str) -> list[Entry]:
    """The table's entries for a device and "triton x.y.z"."""
    return read(table).get(device_name, {}).get(triton, [])


@functools.cache
def read(table: Path) -> Table:
    """The whole table."""
    found: Table = json.loads(table.read_text(encoding="utf-8"))
    return found


def with_entries(table: Path, device: torch.device, entries: list[Entry]) -> str:
    """The table's text with these entries for this device and the installed triton: what tuners print."""
    changed = {name: dict(versions) for name, versions in read(table).items()}
    changed.setdefault(torch.cuda.get_device_name(device), {})[f"triton {version('triton')}"] = entries
    return json.dumps(changed, indent=1)
