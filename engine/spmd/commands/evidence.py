"""Collects what `tokenspeed verify spmd` shows: theorems, exact sums, mappings, mutants, rules and museum."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any, Final

from ..compiler import compile_model
from ..contract import Model
from ..derivation import NO_RULES, Derivation, Known
from ..families import PUBLISHED, declare
from ..links import Links
from ..mesh import DENSE, EXPERT, EXPERT_TENSOR, TENSOR, VOCABULARY, Mesh, Parallelism, PlacementError, divisors
from ..proof.exact import SAMPLES, check
from ..proof.mappings import mappings
from ..proof.museum import exhibits
from ..proof.mutants import mutants
from ..proof.obligations import Verdict, obligations, prove_with_cvc5, prove_with_z3
from ..proof.validator import signature, validate
from ..proof.witnesses import witnesses

WORLDS: Final = (1, 2, 4, 8)
EXACT_WORLDS: Final = (1, 2, 3, 4)
EXACT_SEEDS: Final = 2
MUTANT_MODELS: Final = ("llama-3-8b", "qwen2-7b", "qwen3-30b-a3b", "deepseek-v2-lite", "kimi-k2", "glm-4.5")
MUTANT_LINKS: Final = (Links(), Links(memory_bandwidth=1e6))
"""With the second it pays to norm shares of rows: plans with reduce-scatter and all-gather."""
MUTANT_PARALLELISMS: Final = (
    Parallelism(2),
    Parallelism(1, 2, ep=2, vocab_tp=2),
    Parallelism(2, 2, dense_tp=4, ep=2, vocab_tp=1),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was checked: `counted` of them, in `seconds`; `problems` name what does not hold."""

    section: str
    name: str
    counted: int
    seconds: float
    note: str = ""
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(slots=True)
class Evidence:
    """All rows."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every row does."""
        return all(row.holds for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "holds": self.holds,
            "seconds": round(self.seconds, 3),
            "rows": [
                {
                    "section": row.section,
                    "name": row.name,
                    "counted": row.counted,
                    "holds": row.holds,
                    "seconds": round(row.seconds, 3),
                    "note": row.note,
                    "problems": list(row.problems),
                }
                for row in self.rows
            ],
        }


def collect(processes: int = 2) -> Evidence:
    """Everything, over `processes` processes."""
    started = time.perf_counter()
    evidence = Evidence()
    parts = max(1, processes)
    with ProcessPoolExecutor(parts, mp_context=get_context("spawn")) as pool:
        mapped = [pool.submit(check_mappings, part, parts) for part in range(parts)]
        mutated = [pool.submit(check_mutants, part, parts) for part in range(parts)]
        evidence.rows += theorem_rows()
        evidence.rows.append(exact_row())
        evidence.rows += merged("mappings", [future.result() for future in mapped])
        evidence.rows += merged("mutants", [future.result() for future in mutated])
    evidence.rows.append(full_model_row())
    evidence.rows += rule_rows()
    evidence.rows += museum_rows()
    evidence.seconds = time.perf_counter() - started
    return evidence


def theorem_rows() -> Iterator[Row]:
    """One row for each obligation, with the verdicts of both solvers."""
    second = find_spec("cvc5") is not None
    for obligation in obligations():
        verdicts = [prove_with_z3(obligation)] + ([prove_with_cvc5(obligation)] if second else [])
        yield Row(
            "theorems",
            obligation.name,
            1,
            sum(verdict.seconds for verdict in verdicts),
            ", ".join(f"{_short(verdict)} {verdict.verdict}" for verdict in verdicts),
            tuple(f"{v.solver}: {v.verdict}: {v.says}" for v in verdicts if not v.holds),
        )


def _short(verdict: Verdict) -> str:
    return verdict.solver.split()[0]


def exact_row() -> Row:
    """Every kind of module on every mapping of a small world, with integers."""
    started, problems, counted = time.perf_counter(), [], 0
    for module in SAMPLES:
        # A model of this module alone has the axes that matter to it.
        for world in EXACT_WORLDS:
            for parallelism in _distinct(module.axes, world):
                mesh = Mesh.of(parallelism)
                derivation = Derivation(mesh, mesh.groups((TENSOR,)))
                for seed in range(EXACT_SEEDS):
                    try:
                        check(module, derivation, seed)
                    except PlacementError as error:
                        if not _does_not_fit(error):
                            problems.append(f"{parallelism}: {error}")
                            continue
                        break
                    counted += 1
    return Row(
        "exact integers",
        f"{len(SAMPLES)} kinds of modules, worlds {', '.join(map(str, EXACT_WORLDS))}",
        counted,
        time.perf_counter() - started,
        "parts make the whole, ==",
        tuple(problems),
    )


def _distinct(axes: tuple[str, ...], world: int) -> list[Parallelism]:
    """Mappings that differ on these axes."""
    found: dict[tuple[int, ...], Parallelism] = {}
    for tp in divisors(world):
        for ep in divisors(world):
            for inner in divisors(world // ep):
                for size in divisors(world):
                    p = Parallelism(tp, world // tp, size, ep, inner, size)
                    sizes = {TENSOR: tp, DENSE: size, VOCABULARY: size, EXPERT: ep, EXPERT_TENSOR: inner}
                    found.setdefault(tuple(sizes[axis] for axis in axes), p)
    return list(found.values())


def _does_not_fit(error: PlacementError) -> bool:
    """Whether the sizes cannot be split so: the message says which could."""
    return "; use " in str(error)


def stack(name: str) -> Model:
    """A published model with its real sizes and one dense and two sparse layers, or two layers if all are alike."""
    config = PUBLISHED[name]
    if "first_k_dense_replace" in config:
        return declare({**config, "first_k_dense_replace": 1}, name=name, layers=3)
    return declare(config, name=name, layers=2)


Counts = dict[str, tuple[Counter[str], list[str], float]]
"""By name: what was counted, problems, seconds."""


def check_mappings(part: int, parts: int) -> Counts:
    """Compiles and validates every `parts`-th mapping of every published model."""
    models = {name: stack(name) for name in PUBLISHED}
    known: Known = {}
    seen: set[object] = set()
    results: Counts = {name: (Counter(), [], 0.0) for name in models}
    for name, model in models.items():
        counts, problems, _ = results[name]
        started = time.process_time()
        for number, parallelism in enumerate(p for world in WORLDS for p in mappings(model, world)):
            if number % parts != part:
                continue
            counts["mappings"] += 1
            try:
                plan = compile_model(model, Mesh.of(parallelism), known=known)
            except PlacementError as error:
                counts["refused"] += 1
                if not _does_not_fit(error):
                    problems.append(f"{parallelism}: {error}")
                continue
            derivation = Derivation(plan.mesh, plan.attention, NO_RULES, known)
            shape = signature(plan, derivation)
            if shape not in seen:
                seen.add(shape)
                counts["executed"] += 1
                try:
                    validate(plan, known=known)
                except PlacementError as error:
                    problems.append(f"{parallelism}: {error}")
            counts["right"] += 1
        results[name] = (counts, problems, time.process_time() - started)
    return results


def check_mutants(part: int, parts: int) -> Counts:
    """Makes and judges the mutants of every `parts`-th plan."""
    results: Counts = {}
    number = 0
    for name in MUTANT_MODELS:
        model = stack(name)
        for parallelism in MUTANT_PARALLELISMS:
            for links in MUTANT_LINKS:
                number += 1
                if number % parts != part:
                    continue
                try:
                    plan = compile_model(model, Mesh.of(parallelism), links=links, tokens=16)
                except PlacementError:
                    continue
                _judge(plan_mutants=mutants(plan), label=f"{name}, {parallelism}", results=results)
    return results


def _judge(plan_mutants: Any, label: str, results: Counts) -> None:
    started = time.process_time()
    for mutant in plan_mutants:
        counts, problems, seconds = results.setdefault(mutant.family, (Counter(), [], 0.0))
        counts["mutants"] += 1
        if mutant.noticed() is None:
            problems.append(f"{label}: {mutant.text}: not noticed")
        now = time.process_time()
        results[mutant.family] = (counts, problems, seconds + now - started)
        started = now


def merged(section: str, parts: list[Counts]) -> Iterator[Row]:
    """Rows of what several processes counted."""
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [part[name] for part in parts if name in part]
        counts = sum((counts for counts, _, _ in found), Counter[str]())
        note = f"{counts['mutants']} refused" if section == "mutants" else _mapping_note(counts)
        yield Row(
            section,
            name,
            counts["mappings"] + counts["mutants"],
            sum(seconds for _, _, seconds in found),
            note,
            tuple(problem for _, problems, _ in found for problem in problems),
        )


def _mapping_note(counts: Counter[str]) -> str:
    refused = f", {counts['refused']} refused: sizes do not fit" if counts["refused"] else ""
    return f"{counts['right']} equal one device{refused}"


def full_model_row() -> Row:
    """The largest model with all its layers, as an engine would start it."""
    model = declare(PUBLISHED["kimi-k2"], name="kimi-k2")
    plan = compile_model(model, Mesh.of(Parallelism(8, ep=8)))
    started, problems = time.process_time(), tuple[str, ...]()
    try:
        validate(plan)
    except PlacementError as error:
        problems = (str(error),)
    return Row(
        "whole model",
        "kimi-k2, 61 layers, --tp 8 --ep 8",
        1,
        time.process_time() - started,
        f"{len(plan.calls)} calls on 8 ranks equal one device",
        problems,
    )


def rule_rows() -> Iterator[Row]:
    """For each rule that leaving it out lets a wrong plan pass."""
    for witness in witnesses():
        started = time.perf_counter()
        problems = []
        if witness.refused() is None:
            problems.append(f"{witness.text}: passes under all rules")
        if not witness.passes_without():
            problems.append(f"{witness.text}: refused without the rule too, so that nothing shows the rule is needed")
        yield Row(
            "rules",
            witness.rule.value,
            1,
            time.perf_counter() - started,
            f"without it: {witness.text}",
            tuple(problems),
        )


def museum_rows() -> Iterator[Row]:
    """Wrong plans of another compiler, which the validator must refuse."""
    for exhibit in exhibits():
        started = time.perf_counter()
        refusal = exhibit.refusal()
        yield Row(
            "museum",
            exhibit.name,
            1,
            time.perf_counter() - started,
            f"refused: {exhibit.cause}" if refusal else "",
            () if refusal else ("the wrong plan passes",),
        )
