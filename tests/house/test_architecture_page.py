"""The architecture page names files and rooms that exist, and leaves no room out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = re.findall(r"`((?:spec|scheduler|simulator|engine|kernels)/[a-z_]+)`", PAGE)
FILES = re.findall(r"`((?:spec|scheduler|simulator|engine|kernels|docs)/[a-z_/]+\.(?:py|cpp|h|md))`", PAGE)


@pytest.mark.parametrize("name", sorted({*ROOMS, *FILES, *re.findall(r"\]\(\.\./([^)]+)\)", PAGE)}))
def test_what_the_page_names_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("package", ["spec", "scheduler", "simulator", "engine"])
def test_every_room_is_on_the_page(package: str) -> None:
    rooms = {f"{package}/{p.parent.name}" for p in (ROOT / package).glob("*/*") if p.suffix in (".py", ".cpp", ".h")}
    assert rooms - set(ROOMS) == set()
