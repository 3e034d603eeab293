"""The whole system: the machines and the claims about them, in the order in which they are declared."""

from .claims import (
    behaviour,
    contract,
    copies,
    lemmas,
    liveness,
    liveness_memory,
    memory,
    progress,
)
from .claims import prefix_tree as tree_claims
from .machines import block, copy, prefix_tree, request, scope, step
from .machines.vocabulary import spec

PARTS = (
    prefix_tree,
    request,
    block,
    step,
    copy,
    memory,
    progress,
    behaviour,
    copies,
    tree_claims,
    lemmas,
    contract,
    liveness,
    liveness_memory,
    scope,
)
"""Declared by being imported; the order of the canonical text is the order of the imports."""

SPEC = spec
