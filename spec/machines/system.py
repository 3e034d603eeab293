"""The whole system: the machines, the properties that span them, and what the explorer needs."""

from . import (
    behaviour_properties,
    block,
    contract,
    copy,
    copy_properties,
    lemmas,
    liveness,
    liveness_memory,
    memory_properties,
    prefix_tree,
    progress_properties,
    request,
    scope,
    step,
    tree_properties,
)
from .vocabulary import spec

SPEC = spec
PARTS = (
    prefix_tree,
    request,
    block,
    step,
    copy,
    memory_properties,
    progress_properties,
    behaviour_properties,
    copy_properties,
    tree_properties,
    lemmas,
    contract,
    liveness,
    liveness_memory,
    scope,
)
