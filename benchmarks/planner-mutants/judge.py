"""Runs tests against one build of the scheduler: `judge.py MODULE TEST...`. Exit status 0: all pass; 1: one fails.

The module takes the place of `tokenspeed.scheduler._core` in this process, as the checked build does.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location

import pytest

NAME = "tokenspeed.scheduler._core"


def main(path: str, tests: list[str]) -> int:
    """Load the module and run the tests until one fails."""
    loader = ExtensionFileLoader(NAME, path)
    spec = spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    return pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", *tests])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
