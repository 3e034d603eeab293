"""TokenSpeed: one LLM scheduler for coding agents, proved, simulated and served from a single source.

Sub-packages: `spec` (the specification and its proofs), `scheduler` (the compiled scheduler and its driver contract),
`simulator` (a discrete-event GPU simulator), `engine` (the server) and `kernels` (attention kernels).
"""

from importlib.metadata import version

__version__: str = version("tokenspeed")
"""Version of the installed package, as declared in pyproject.toml."""

__all__ = ["__version__"]
