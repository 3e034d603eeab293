"""Where a model runs: the mesh, the rank, and how that rank speaks to the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..compiler import compile_model
from ..contract import Model
from ..mesh import Mesh, Parallelism
from ..plan import Plan
from ..proof.validator import validate
from .collectives import Communicator


@dataclass(frozen=True, slots=True)
class Place:
    """One rank of a mesh."""

    mesh: Mesh
    rank: int = 0
    connect: Callable[[Plan], Communicator] | None = None
    """Makes the links that a plan needs; None only in a world of one."""

    def plan(self, model: Model, *, tokens: int = 512) -> Plan:
        """The plan of `model` here, equal to one device or refused: PlacementError says where and why.

        Sampled rows are selected by the caller, on every rank of the attention group.
        """
        plan = compile_model(model, self.mesh, tokens=tokens, whole_hidden=True)
        if self.mesh.world > 1:  # a plan without collectives is the model as it is declared
            validate(plan)
        return plan

    def communicator(self, plan: Plan) -> Communicator | None:
        """The links of this rank."""
        return None if self.connect is None else self.connect(plan)


ALONE: Final = Place(Mesh.of(Parallelism()))
"""A world of one rank."""
