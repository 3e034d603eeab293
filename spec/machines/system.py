"""The whole system: the machines, the properties that span them, and what the explorer needs."""

from . import block, lemmas, properties, request, scope, step
from .vocabulary import spec

SPEC = spec
PARTS = (request, block, step, properties, lemmas, scope)
