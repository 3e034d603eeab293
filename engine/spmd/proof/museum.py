"""Wrong plans of another compiler, put into our words: what was found, how, and what happens to the ranks.

tokenspeed 0.1.1 (PyPI, read and executed in November 2026) also has a compiler that inserts collectives from
placement annotations. Its `compiler.py`, `comm_ops.py` and `mapping.py` were imported unmodified out of the wheel and
compiled for every rank of a stack of three attention + mixture-of-experts layers; the resulting steps were interpreted
on symbolic rows, with 3, 5, 7, ... tokens in the data-parallel groups. Nothing of it was run on GPUs. Of the ten
mappings of 1, 2, 4 and 8 ranks with the experts over the whole world, the default, three are wrong: those that mix
tensor- and data-parallel attention. `_compile_compute_step` gathers rows over the group of the *producer's* placement
(attention), not over that of the consumer (experts), so that each rank enters the experts with the rows of its
attention group only, and the reduce-scatter behind them, over the whole world, expects all rows.
"""

from dataclasses import dataclass, replace
from typing import Final

from ..blocks import GroupedQuery, MixtureOfExperts, embedding, lm_head
from ..compiler import compile_model
from ..contract import Block, Model
from ..derivation import Derivation
from ..links import Links
from ..mesh import Mesh, Parallelism, PlacementError
from ..placements import Weight
from ..plan import HIDDEN, Act, Plan
from .validator import Load, prepare, validate

HIDDEN_WIDTH: Final = 64


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A wrong plan that another project's compiler makes."""

    name: str
    mapping: str
    source: str
    cause: str
    plan: Plan

    def refusal(self) -> str | None:
        """What our validator says to it; None if it passed."""
        try:
            validate(self.plan)
        except PlacementError as error:
            return str(error)
        return None

    def timeline(self) -> list[str]:
        """For every collective up to the failure the rows that each rank brings, and the error."""
        world, groups = self.plan.mesh.world, len(self.plan.attention.parts)
        programs = [self.plan.bind(rank) for rank in range(world)]
        load = Load(tuple(3 + 2 * g for g in range(groups)), tuple((2,) for _ in range(groups)))
        machine, _ = prepare(self.plan, programs, load, Derivation(self.plan.mesh, self.plan.attention))
        error = "no error"
        try:
            machine.run()
        except PlacementError as refusal:
            error = str(refusal)
        tokens = ", ".join(f"{set(g)} {n}" for g, n in zip(self.plan.attention, load.tokens, strict=True))
        lines = [f"tokens of each attention group: {tokens}", _line("", "", [f"rank {r}" for r in range(world)])]
        meetings = [[call for call in program if len(call.members) > 1 and not call.source] for program in programs]
        collectives = [[call for call in calls if call.act not in (Act.EMBED, Act.SELECT)] for calls in meetings]
        for turn in range(max(len(rank.posted) for rank in machine.ranks)):
            calls = [collectives[rank][turn] for rank in range(world)]
            rows = [
                f"{len(rank.posted[turn][0][calls[rank.number].register])} rows" if len(rank.posted) > turn else "-"
                for rank in machine.ranks
            ]
            who = "all ranks" if len(calls[0].members) == world else f"groups of {len(calls[0].members)}"
            lines.append(_line(calls[0].act.value.split(" +")[0], f"{calls[0].where}, {who}", rows))
        return [*lines, f"then: {error}"]


def _line(act: str, where: str, cells: list[str]) -> str:
    return f"{act:15s}{where:32s}" + "".join(f"{cell:>8s}" for cell in cells)


def exhibits() -> list[Exhibit]:
    """The three mappings."""
    found = []
    for tp, dp in ((2, 2), (2, 4), (4, 2)):
        found.append(
            Exhibit(
                f"tokenspeed-0.1.1-attention-{tp}x{dp}",
                f"--tp {tp} --dp {dp}, experts over all {tp * dp} ranks",
                "tokenspeed 0.1.1, runtime/models/base/compiler.py, _compile_compute_step",
                "rows are gathered over the producer's group, not the consumer's",
                gathered_for_the_producer(Parallelism(tp, dp)),
            )
        )
    return found


def gathered_for_the_producer(parallelism: Parallelism) -> Plan:
    """Our right plan with every gathering before the experts over the attention group instead."""
    blocks = []
    for index in range(3):
        prefix = f"layer {index}"
        attention = GroupedQuery(HIDDEN_WIDTH, 8, 8, 8).module(f"{prefix} attention")
        experts = MixtureOfExperts(HIDDEN_WIDTH, 16, 32).module(f"{prefix} experts")
        blocks += [Block(Weight(f"{m.name} norm", (HIDDEN_WIDTH,)), m) for m in (attention, experts)]
    model = Model(
        "attention + experts",
        HIDDEN_WIDTH,
        embedding(64, HIDDEN_WIDTH),
        tuple(blocks),
        Weight("norm", (HIDDEN_WIDTH,)),
        lm_head(64, HIDDEN_WIDTH),
    )
    plan = compile_model(model, Mesh.of(parallelism), links=Links(memory_bandwidth=1e6), fuse=False)
    return plan.with_calls(
        [
            replace(call, groups=plan.attention)
            if call.act is Act.ALL_GATHER and call.register == HIDDEN and call.where.endswith("experts")
            else call
            for call in plan.calls
        ]
    )
