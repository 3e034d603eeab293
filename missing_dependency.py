"""A missing third-party package is one line that says what to install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def explained_missing_dependency(extra: str = "") -> Iterator[None]:
    """Report a missing third-party package in one line that says what to install; errors about our own pass through."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", __name__.partition(".")[0]):
            raise
        target = f"tokenspeed[{extra}]" if extra else "tokenspeed"
        raise click.ClickException(
            f"this command needs the Python module `{module}`, which is not installed; "
            f"run: {sys.executable} -m pip install '{target}'"
        ) from None
