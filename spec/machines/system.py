"""The whole system: the machines, the properties that span them, and what the explorer needs."""

from . import behaviour_properties, block, lemmas, memory_properties, request, scope, step
from .vocabulary import spec

SPEC = spec
PARTS = (request, block, step, memory_properties, behaviour_properties, lemmas, scope)
