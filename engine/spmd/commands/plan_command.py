"""`tokenspeed plan`: where a model's collectives are and why, what each rank holds, and what other mappings cost."""

import json
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from ..compiler import compile_model
from ..contract import Model
from ..derivation import Known
from ..families import PUBLISHED, UnknownFamily, declare
from ..mesh import DATA, EXPERT, EXPERT_TENSOR, TENSOR, Mesh, Parallelism, PlacementError, divisors, flag
from ..plan import COLLECTIVES, Act, Call, Plan
from ..proof.validator import validate

OTHERS: Final = 5
"""Other mappings that are shown."""
SPARE: Final = 1.25
"""They have at most this many times the weights of the leanest."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a mapping takes on the worst rank. Seconds are those of collectives and norms, by the link model."""

    parallelism: Parallelism
    microseconds: float
    bytes_per_token: float
    weight_bytes: int
    cache_bytes_per_token: int

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "mapping": str(self.parallelism),
            "microseconds": round(self.microseconds, 1),
            "bytes_per_token": round(self.bytes_per_token),
            "weight_bytes": self.weight_bytes,
            "cache_bytes_per_token": self.cache_bytes_per_token,
        }


def run_plan(
    model: str,
    parallelism: Parallelism,
    *,
    tokens: int = 512,
    value_bytes: int = 2,
    compare: bool = True,
    json_output: bool = False,
) -> int:
    """Prints the plan of `model`, a directory with a config.json, such a file, or the name of a published model.

    `tokens`: in a step over all ranks. `value_bytes`: of a weight and of a cached value. Returns the exit status: 0, or
    2 with a message if the model is not known or cannot be placed so.
    """
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=150)
    try:
        declared = open_model(model)
        mesh = Mesh.of(parallelism)
        plan = compile_model(declared, mesh, tokens=tokens)
        validate(plan)
    except (UnknownFamily, PlacementError, ValueError, OSError) as error:
        print(f"{model}: {error}", file=sys.stderr)
        return 2
    own = cost(plan, parallelism, value_bytes)
    others = alternatives(declared, parallelism.world, tokens, value_bytes) if compare else []
    if json_output:
        print(json.dumps(_as_json(plan, own, others), indent=2))
        return 0
    console.print(
        f"{declared.name} on {mesh.world} ranks: {mapping_text(declared, parallelism)}; steps of {tokens} tokens",
        highlight=False,
    )
    console.print(_calls_table(plan))
    for (weights, cache), group in groupby(enumerate(memory(plan, value_bytes)), key=lambda item: item[1]):
        ranks = [rank for rank, _ in group]
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}, each"
        text = f"{who}: {weights / 1e9:.2f} GB of weights, {cache:,} B of cache for a token of its attention group"
        console.print(text, highlight=False)
    console.print(
        f"a step: {own.microseconds:.0f} us in collectives and norms (link model), "
        f"{own.bytes_per_token:,.0f} B sent by each rank for a token; equal to one device: validated",
        highlight=False,
    )
    if others:
        console.print(_costs_table(declared, own, others))
    return 0


def open_model(model: str) -> Model:
    """Declares a published model by name, or what a config.json describes. Raises UnknownFamily or OSError."""
    if model in PUBLISHED:
        return declare(PUBLISHED[model], name=model)
    path = Path(model).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise UnknownFamily(f"is no config.json, no directory with one, and none of {', '.join(PUBLISHED)}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownFamily(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnknownFamily(f"{file} must hold a JSON object")
    return declare(config, name=path.resolve().name if path.is_dir() else path.stem)


def memory(plan: Plan, value_bytes: int) -> list[tuple[int, int]]:
    """For each rank the bytes of its weights, and what a token of its attention group adds to its cache."""
    held = []
    for rank in range(plan.mesh.world):
        weights = sum(weight.values(plan.mesh, rank) for weight in plan.model.weights)
        caches = [module.cache.values_on(plan.mesh, rank) for module in plan.model.modules if module.cache]
        held.append((weights * value_bytes, sum(caches) * value_bytes))
    return held


def cost(plan: Plan, parallelism: Parallelism, value_bytes: int) -> Cost:
    """What a plan takes, on the rank that has most."""
    held = memory(plan, value_bytes)
    return Cost(
        parallelism,
        plan.seconds * 1e6,
        sum(call.bytes_per_token for call in plan.calls),
        max(weights for weights, _ in held),
        max(cache for _, cache in held),
    )


def alternatives(model: Model, world: int, tokens: int, value_bytes: int) -> list[Cost]:
    """The fastest mappings of as many ranks that split weights nearly as far as can be.

    Dense layers and vocabulary are split like attention in all of them.
    """
    known: Known = {}
    found = []
    used = {axis for module in model.modules for axis in module.axes}
    for tp in divisors(world):
        for ep in divisors(world) if EXPERT in used else [1]:
            for inner in divisors(world // ep) if EXPERT_TENSOR in used else [None]:
                parallelism = Parallelism(tp, world // tp, None, ep, inner, None)
                try:
                    plan = compile_model(model, Mesh.of(parallelism), tokens=tokens, known=known)
                except PlacementError:
                    continue
                found.append(cost(plan, parallelism, value_bytes))
    least = min((c.weight_bytes for c in found), default=0)
    lean = [c for c in found if c.weight_bytes <= SPARE * least]
    return sorted(lean, key=lambda c: (c.microseconds, c.weight_bytes))[:OTHERS]


def mapping_text(model: Model, parallelism: Parallelism) -> str:
    """The options of the axes that the model uses."""
    used = {TENSOR, DATA} | {axis for module in model.modules for axis in module.axes}
    return " ".join(f"{flag(axis)} {size}" for axis, size in parallelism.sizes().items() if axis in used)


def _calls_table(plan: Plan) -> Table:
    """Calls in order; layers whose calls are like those of the layer before are counted, not repeated."""
    table = Table(box=None, pad_edge=False)
    for title in ("module", "call", "over ranks", "B/token", "why"):
        table.add_column(title, justify="right" if title == "B/token" else "left", overflow="fold")
    for call, times in folded(plan.calls):
        where = call.where + (f"  (and {times - 1} like it)" if times > 1 else "")
        sent = f"{call.bytes_per_token:,.0f}" if call.act in COLLECTIVES else ""
        groups = str(call.groups) if call.groups and call.act in (*COLLECTIVES, Act.SLICE) else ""
        what = call.act.value + (" of the residual" if call.register == "stream" else "")
        table.add_row(where, what, groups, sent, call.reason)
    return table


def folded(calls: tuple[Call, ...]) -> list[tuple[Call, int]]:
    """Calls with the number of times that they come again in the same order, layer after layer."""
    shapes = [(call.act, call.groups, call.source, call.register, _kind(call)) for call in calls]
    best = (0, 0, 0)
    for period in range(1, 33):
        start = 0
        while start + 2 * period <= len(calls):
            repeats = 1
            while shapes[start : start + period] == shapes[start + repeats * period : start + (repeats + 1) * period]:
                repeats += 1
            if repeats > 1 and (repeats - 1) * period > best[2]:
                best = (start, period, (repeats - 1) * period)
            start += max(1, (repeats - 1) * period)
    start, period, saved = best
    if not saved:
        return [(call, 1) for call in calls]
    times = saved // period + 1
    before, once, after = calls[:start], calls[start : start + period], calls[start + times * period :]
    return [*((call, 1) for call in before), *((call, times) for call in once), *((call, 1) for call in after)]


def _kind(call: Call) -> str:
    return (
        call.module.kind if call.module else call.norm.name.rpartition(".")[0].rpartition(".")[2] if call.norm else ""
    )


def _costs_table(model: Model, own: Cost, others: list[Cost]) -> Table:
    table = Table(
        box=None, pad_edge=False, title="this mapping, and others that split the weights as far", title_justify="left"
    )
    for title in ("mapping", "us", "B/token", "weights GB", "cache B/token"):
        table.add_column(title, justify="left" if title == "mapping" else "right")
    others = [other for other in others if other.parallelism.sizes() != own.parallelism.sizes()]
    for entry in [own, *others]:
        mark = "  (this)" if entry is own else ""
        table.add_row(
            mapping_text(model, entry.parallelism) + mark,
            f"{entry.microseconds:.0f}",
            f"{entry.bytes_per_token:,.0f}",
            f"{entry.weight_bytes / 1e9:.2f}",
            f"{entry.cache_bytes_per_token:,}",
        )
    return table


def _as_json(plan: Plan, own: Cost, others: list[Cost]) -> dict[str, Any]:
    return {
        "model": plan.model.name,
        "calls": [
            {
                "call": call.act.value,
                "where": call.where,
                "register": call.register,
                "groups": call.groups.parts if call.groups else None,
                "bytes_per_token": round(call.bytes_per_token, 1),
                "reason": call.reason,
            }
            for call in plan.calls
        ],
        "ranks": [{"weight_bytes": w, "cache_bytes_per_token": c} for w, c in memory(plan, 2)],
        "cost": own.as_json(),
        "others": [other.as_json() for other in others],
    }
