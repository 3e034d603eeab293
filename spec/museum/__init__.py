"""The museum: mistakes that LLM schedulers made, each put back into the specification by leaving something out."""

from .bugs import BUGS
from .case import Bug, Exhibit, exhibit

__all__ = ["BUGS", "Bug", "Exhibit", "exhibit"]
