"""The whole system: the machines and the claims about them.

They are declared by being imported; the order of the canonical text is the order of the imports.
"""

from .claims import (  # noqa: F401
    behaviour,
    copies,
    lemmas,
    liveness,
    liveness_memory,
    memory,
    progress,
)
from .claims import prefix_tree as tree_claims  # noqa: F401
from .machines import block, copy, prefix_tree, request, step  # noqa: F401
from .machines.vocabulary import spec

SPEC = spec
