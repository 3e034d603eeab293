"""Architectures by the name that config.json gives them: every module of `architectures` adds its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from . import architectures
from .architecture import Architecture
from .fields import Fields, UnsupportedModel


@cache
def known() -> Mapping[str, Architecture]:
    """All architectures, by each of their names."""
    found: dict[str, Architecture] = {}
    for info in sorted(pkgutil.iter_modules(architectures.__path__), key=lambda info: info.name):
        for architecture in importlib.import_module(f"{architectures.__name__}.{info.name}").ARCHITECTURES:
            found.update(dict.fromkeys((architecture.family, *architecture.names), architecture))
    return found


def read(raw: Mapping[str, Any], fields: Fields | None = None) -> tuple[Architecture, Any]:
    """The architecture that a config.json asks for, and the configuration in its terms.

    `fields`: how the file is called in errors, if it is no config.json. Raises UnsupportedModel naming the architecture
    and those that are known, or the field that is not supported.
    """
    names = raw.get("architectures") or [raw.get("model_type")]
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in known():
        shown = ", ".join(sorted(name for name in known() if name[0].isupper()))
        raise UnsupportedModel(f"architecture {name!r} is not supported: use a checkpoint of one of {shown}")
    architecture = known()[name]
    fields = fields or Fields(raw)
    return architecture, architecture.read_config(fields.with_values(model_type=architecture.family))
