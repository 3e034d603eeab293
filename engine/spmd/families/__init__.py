"""Declarations of whole models from their config.json, by `model_type`. No torch and no weights."""

from .declare import FAMILIES, UnknownFamily, declare
from .published import PUBLISHED

__all__ = ["FAMILIES", "PUBLISHED", "UnknownFamily", "declare"]
