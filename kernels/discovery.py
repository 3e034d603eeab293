"""Importing the modules that register kernels: those in an operation's folder, and third parties' entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import warnings
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A module of kernels that could not be imported, and why."""

    module: str
    reason: str


def import_folder(package: str) -> list[Unavailable]:
    """Import every module of an operation's folder, in the order of their names.

    A module whose third-party dependency is missing (triton, say) is returned instead of raised. A failing import of
    anything inside this package is a defect and is raised.
    """
    own = package.split(".")[0]
    unavailable = []
    folder = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(folder.__path__), key=lambda info: info.name):
        module = f"{package}.{info.name}"
        try:
            importlib.import_module(module)
        except ImportError as error:
            if (error.name or "").split(".")[0] == own:
                raise
            unavailable.append(Unavailable(module, f"cannot be imported: {error}"))
    return unavailable


def import_plugins(group: str) -> list[Unavailable]:
    """Import every module named by the installed packages' entry points of `group`.

    Third-party code may fail in any way: that costs its kernels, a RuntimeWarning and a line in the explanation of each
    selection, never the process.
    """
    unavailable = []
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        try:
            entry.load()
        except Exception as error:
            reason = f"entry point {entry.name!r} of group {group!r} failed: {type(error).__name__}: {error}"
            warnings.warn(f"kernels of {entry.value} are not available: {reason}", RuntimeWarning, stacklevel=2)
            unavailable.append(Unavailable(entry.value, reason))
    return unavailable
