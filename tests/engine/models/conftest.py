"""Checkpoints that several tests read, made once."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tokenspeed.engine.checkpoints.loader import load_checkpoint

from .tiny import Pair, save


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Makes the pair of a family, once."""
    known: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in known:
            directory = tmp_path_factory.mktemp(name)
            theirs = save(directory, name)
            known[name] = Pair(name, directory, theirs, load_checkpoint(str(directory)).build(torch.float32, "cpu"))
        return known[name]

    return pair


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
