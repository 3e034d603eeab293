"""Where the commands print."""

from __future__ import annotations

from rich.console import Console


def make_console() -> Console:
    """Piped output gets a width at which tables read well."""
    console = Console()
    return console if console.is_terminal else Console(width=132)
