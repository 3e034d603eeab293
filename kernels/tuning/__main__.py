"""Tune kernels on the CUDA device at hand and write their tables: `python -m tokenspeed.kernels.tuning [OPERATION]`."""

from __future__ import annotations

import sys

import torch

from ..registry import REGISTRY
from .table import Table, device_name, triton_version
from .tuner import TUNABLES, tune


def main(operations: list[str]) -> int:
    """Tune the kernels of the named operations, of all if none is named. Returns the exit status."""
    if not torch.cuda.is_available():
        print("error: tuning needs a CUDA device, and torch sees none", file=sys.stderr)
        return 2
    for name in REGISTRY.operations():
        REGISTRY.operation(name).kernels()  # imports the modules that declare what can be tuned
    known = sorted({operation for operation, _ in TUNABLES})
    unknown = [name for name in operations if name not in known]
    if unknown:
        print(
            f"error: nothing to tune in {', '.join(unknown)}; there is {', '.join(known) or 'nothing'}", file=sys.stderr
        )
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    for (operation, kernel), declared in sorted(TUNABLES.items()):
        if operations and operation not in operations:
            continue
        entries = []
        for shape, entry in tune(declared, device):
            found = "its own rule" if entry is None else f"{dict(entry.choice)}: {entry.us} us, rule {entry.rule_us} us"
            print(f"{operation} {kernel} {dict(shape)}: {found}", flush=True)
            if entry is not None:
                entries.append(entry)
        table = Table.load(operation, kernel)
        table.replace(device_name(device), triton_version(), entries)
        print(f"wrote {table.save()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
