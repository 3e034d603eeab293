"""Which TokenSpeed a result comes from."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("tokenspeed")
"""Version of the installed package."""
