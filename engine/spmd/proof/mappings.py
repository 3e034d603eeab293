"""Every way to spread a model over a number of ranks."""

from collections.abc import Iterator

from ..contract import Model
from ..mesh import DENSE, EXPERT, EXPERT_TENSOR, VOCABULARY, Parallelism, divisors


def mappings(model: Model, world: int) -> Iterator[Parallelism]:
    """All sizes of the axes that `model` uses; of the others the usual one."""
    used = {axis for module in model.modules for axis in module.axes}
    for tp in divisors(world):
        for dense in divisors(world) if DENSE in used else [None]:
            for vocabulary in divisors(world) if VOCABULARY in used else [None]:
                for ep in divisors(world) if EXPERT in used else [1]:
                    for inner in divisors(world // ep) if EXPERT_TENSOR in used else [None]:
                        yield Parallelism(tp, world // tp, dense, ep, inner, vocabulary)
