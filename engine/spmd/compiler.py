"""Chooses the collectives between modules: dynamic programming over how the rows of the stream are held.

After each module the stream may be held in several ways (each rank its share, each rank the rows of its attention
group, ...). Every way to get from one module to the next is priced with the link model and the cheapest chain is kept;
for a chain this is the exact optimum. The result depends on model, mesh and one number of tokens, never on a batch.
"""

from dataclasses import dataclass, replace

from .contract import Block, Model, Module
from .derivation import NO_RULES, Derivation, Derived, Known, Rule
from .links import VALUE_BYTES, Links, moved
from .mesh import TENSOR, VOCABULARY, Groups, Mesh, PlacementError, alone
from .placements import Weight
from .plan import HIDDEN, STREAM, Act, Call, Plan


@dataclass(frozen=True, slots=True)
class Path:
    """Calls so far, and what they cost in seconds."""

    seconds: float
    calls: tuple[Call, ...]

    def then(self, *steps: tuple[float, tuple[Call, ...]]) -> "Path":
        """This path, then these."""
        seconds, calls = self.seconds, self.calls
        for cost, more in steps:
            seconds += cost
            calls += more
        return Path(seconds, calls)


def compile_model(
    model: Model,
    mesh: Mesh,
    *,
    tokens: int = 512,
    links: Links | None = None,
    fuse: bool = True,
    whole_hidden: bool = False,
    ignored: frozenset[Rule] = NO_RULES,
    known: Known | None = None,
) -> Plan:
    """The plan of `model` on `mesh`, the cheapest for steps of `tokens` tokens over all ranks.

    `fuse`: join an all-reduce and the norm after it into one call. `whole_hidden`: every rank shall have all rows of
    its attention group before the sampled ones are selected, for callers that select by themselves. `ignored`: rules
    that are left out, to see that wrong plans follow. `known`: see `Derivation`. Raises PlacementError if the model
    cannot be placed, naming module, weight, wanted and found placement, the option and the sizes that would work.
    """
    derivation = Derivation(mesh, _attention(mesh), ignored, known)
    return _Compiler(model, mesh, tokens, links or Links(), derivation).compile(fuse, whole_hidden)


def _attention(mesh: Mesh) -> Groups:
    """Ranks that serve the same requests."""
    return mesh.groups((TENSOR,)) if TENSOR in mesh.axes else alone(mesh.world)


class _Compiler:
    def __init__(self, model: Model, mesh: Mesh, tokens: int, links: Links, derivation: Derivation) -> None:
        if tokens < 1:
            raise ValueError(f"tokens={tokens} must be at least 1")
        self.model, self.mesh, self.tokens, self.links = model, mesh, tokens, links
        self.attention = derivation.attention
        self.alone = alone(mesh.world)
        self.derivation = derivation
        rows = [self.derivation.derive(module).rows for module in model.modules]
        candidates = [self.attention, self.alone, *(groups for groups in rows if groups is not None)]
        self.layouts = list(dict.fromkeys(candidates))

    def compile(self, fuse: bool, whole_hidden: bool) -> Plan:
        best = self._embed()
        norms = [*(block.norm for block in self.model.blocks), self.model.norm]
        for block, after in zip(self.model.blocks, [*norms[1:]], strict=True):
            best = self._step(best, block, after)
        finished = []
        for layout, path in best.items():
            held = self.attention if whole_hidden else layout
            gathered = path.then(self._convert(HIDDEN, "sampled rows", layout, held, "every rank selects"))
            finished.append(self._head(held, gathered))
        path = min(finished, key=lambda p: p.seconds)
        calls = _fused(path.calls) if fuse else path.calls
        return Plan(self.model, self.mesh, self.attention, calls, path.seconds)

    def _bytes(self, groups: Groups) -> float:
        """Bytes of the rows of a group, of the stream's width."""
        return self.tokens / self.mesh.world * groups.size * self.model.hidden * VALUE_BYTES

    def _call(self, act: Act, where: str, groups: Groups, reason: str, register: str = HIDDEN) -> Call:
        per_token = moved(groups.size, self._bytes(groups)) / self.tokens
        return Call(
            act,
            where,
            groups,
            register=register,
            reason=reason,
            bytes_per_token=2 * per_token if act is Act.ALL_REDUCE else per_token,
        )

    def _convert(
        self, register: str, where: str, held: Groups, wanted: Groups, why: str
    ) -> tuple[float, tuple[Call, ...]]:
        """Calls after which `register` holds the rows of `wanted`."""
        if held == wanted:
            return 0.0, ()
        if wanted.refines(held):
            return 0.0, (Call(Act.SLICE, where, wanted, held, register, reason=f"{why}; the rows are here already"),)
        down = (
            () if held == self.alone else (Call(Act.SLICE, where, self.alone, held, register, reason="its own share"),)
        )
        gather = self._call(Act.ALL_GATHER, where, wanted, why, register)
        return self.links.shift(wanted.size, self._bytes(wanted)), (*down, gather)

    def _need(self, module: Module, held: Groups, rows: Groups) -> tuple[float, tuple[Call, ...]]:
        why = f"{module.name} needs the rows of {_name(self, rows)}"
        return self._convert(HIDDEN, module.name, held, rows, why)

    def _settle(
        self, derived: Derived, held: Groups, where: str, wanted: Groups
    ) -> list[tuple[float, tuple[Call, ...]]]:
        """Ways to bring a module's output from the rows of `held` to those of `wanted`, with nothing owed."""
        why = f"the next norm runs on the rows of {_name(self, wanted)}"
        if derived.owed is None:
            return [self._convert(HIDDEN, where, held, wanted, why)]
        groups, nbytes = derived.owed, self._bytes(derived.owed)
        ways = []
        if wanted.refines(groups):
            reduce = self._call(Act.ALL_REDUCE, where, groups, f"{where} owes a sum over {groups}")
            seconds, calls = self._convert(HIDDEN, where, groups, wanted, why)
            ways.append((self.links.all_reduce(groups.size, nbytes) + seconds, (reduce, *calls)))
        scatter = self._call(
            Act.REDUCE_SCATTER, where, groups, f"{where} owes a sum over {groups}; ranks go on with shares"
        )
        seconds, calls = self._convert(HIDDEN, where, self.alone, wanted, why)
        ways.append((self.links.shift(groups.size, nbytes) + seconds, (scatter, *calls)))
        return ways

    def _norm(self, weight: Weight, layout: Groups) -> tuple[float, tuple[Call, ...]]:
        return self.links.norm(self._bytes(layout)), (Call(Act.NORM, weight.name, norm=weight),)

    def _run(self, module: Module, derived: Derived, rows: Groups) -> tuple[float, tuple[Call, ...]]:
        """A module whose rows are not fixed costs what ranks compute beyond their share."""
        act = Act.EMBED if module is self.model.embed else Act.RUN
        call = Call(act, module.name, rows if act is Act.EMBED else None, module=module)
        if derived.rows is not None or act is Act.EMBED:
            return 0.0, (call,)
        values = sum(weight.values(self.mesh, 0) for weight in module.weights)
        own = self.tokens / self.mesh.world
        return self.links.matmul(own * rows.size, values) - self.links.matmul(own, values), (call,)

    def _embed(self) -> dict[Groups, Path]:
        module = self.model.embed
        derived = self.derivation.derive(module)
        first = (self.model.blocks[0].norm if self.model.blocks else self.model.norm).name
        best: dict[Groups, Path] = {}
        for layout in self.layouts:
            # Token ids reach every rank, so that any rows can be looked up.
            rows = derived.rows or layout
            for way in self._settle(derived, rows, module.name, layout):
                _keep(best, layout, Path(0.0, ()).then(self._run(module, derived, rows), way))
        return {layout: path.then(self._norm(_weight(self.model, first), layout)) for layout, path in best.items()}

    def _step(self, before: dict[Groups, Path], block: Block, after: Weight) -> dict[Groups, Path]:
        """From the normed stream in each layout through one module to the next norm in each layout."""
        module = block.module
        derived = self.derivation.derive(module)
        best: dict[Groups, Path] = {}
        for layout, path in before.items():
            rows = derived.rows or layout
            reached = path.then(
                self._need(module, layout, rows),
                self._run(module, derived, rows),
            )
            for wanted in self.layouts:
                residual = self._convert(STREAM, module.name, layout, wanted, "the residual follows the rows")
                for way in self._settle(derived, rows, module.name, wanted):
                    _keep(best, wanted, reached.then(way, residual, self._norm(after, wanted)))
        return best

    def _head(self, layout: Groups, path: Path) -> Path:
        """Sampled rows, logits of the whole vocabulary, on every rank of the attention group."""
        module = self.model.head
        derived = self.derivation.derive(module)
        if derived.owed is not None:
            raise PlacementError(f"{module.name} owes a sum over {derived.owed}; split the head by token id: Column")
        if derived.rows is not None and derived.split is None:
            raise PlacementError(f"{module.name}: weights are split over {derived.rows}, but its output is not")
        select = Call(Act.SELECT, "sampled rows", layout, reason="only rows whose next token is wanted need logits")
        rows = derived.rows or self.attention
        path = path.then(
            (0.0, (select,)),
            self._need(module, layout, rows),
            self._run(module, derived, rows),
        )
        if derived.split is not None:
            gather = Call(
                Act.GATHER_COLUMNS,
                module.name,
                derived.split,
                reason=f"each rank has {flag_share(self.mesh)} of the vocabulary; sampling needs all of it",
                bytes_per_token=moved(derived.split.size, module.output.width * VALUE_BYTES * derived.split.size)
                / self.mesh.world,
            )
            path = path.then((self.links.shift(derived.split.size, gather.bytes_per_token * self.tokens), (gather,)))
        return path.then(
            self._convert(HIDDEN, module.name, rows, self.attention, "each group samples its own requests")
        )


def flag_share(mesh: Mesh) -> str:
    """The part of the vocabulary that a rank has, in words."""
    return f"1/{mesh.axes[VOCABULARY].size}" if VOCABULARY in mesh.axes else "a part"


def _name(compiler: _Compiler, groups: Groups) -> str:
    if groups == compiler.alone:
        return "its own share"
    return f"its attention group, {groups}" if groups == compiler.attention else f"{groups}"


def _weight(model: Model, name: str) -> Weight:
    return next(weight for weight in model.weights if weight.name == name)


def _keep(best: dict[Groups, Path], layout: Groups, path: Path) -> None:
    """The cheaper of two; of equals the one with fewer calls, then the one found first."""
    known = best.get(layout)
    if known is None or (path.seconds, len(path.calls)) < (known.seconds, len(known.calls)):
        best[layout] = path


def _fused(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """Joins each all-reduce with a norm that follows at once."""
    joined: list[Call] = []
    for call in calls:
        if call.act is Act.NORM and joined and joined[-1].act is Act.ALL_REDUCE:
            joined[-1] = replace(joined[-1], act=Act.ALL_REDUCE_NORM, norm=call.norm)
        else:
            joined.append(call)
    return tuple(joined)
