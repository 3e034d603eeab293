"""The theorems behind placements, for any number of ranks, rows, heads and experts; z3 decides them, cvc5 again.

Geometry is about integers. Algebra is about an abstract abelian group: sums over ranks by induction, with an unknown
function that is linear, or is not. Some claims must have a counterexample: they are why a rule is there.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import z3

TIMEOUT_MS = 20_000


@dataclass(frozen=True, slots=True)
class Obligation:
    """A claim: `formula` holds for all values, or (`refuted`) does not and a counterexample must be found."""

    name: str
    says: str
    formula: z3.BoolRef
    refuted: bool = False

    def script(self) -> str:
        """The negation in SMT-LIB: unsat proves the claim, sat refutes it."""
        solver = z3.Solver()
        solver.add(z3.Not(self.formula))
        return str(solver.to_smt2())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a solver said."""

    name: str
    says: str
    solver: str
    verdict: str
    """proved, refuted (as it should be), or FAILED, UNKNOWN."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the solver said what is claimed."""
        return self.verdict in ("proved", "refuted")


def obligations() -> list[Obligation]:
    """All claims."""
    return [*_shares(), *_meshes(), *_heads(), *_sums(), *_why()]


def _shares() -> Iterator[Obligation]:
    """Shares of n things over T ranks: the first n mod T are one larger. b and r are quotient and rest."""
    n, ranks, b, r, t, u, i = z3.Ints("n ranks b r t u i")
    given = [ranks >= 1, b >= 0, r >= 0, r < ranks, n == b * ranks + r]

    def start(t: z3.ArithRef) -> z3.ArithRef:
        return t * b + z3.If(t < r, t, r)

    def size(t: z3.ArithRef) -> z3.ArithRef:
        return b + z3.If(t < r, 1, 0)

    one = z3.And(*given, t >= 0, t < ranks)
    yield Obligation(
        "shares follow each other",
        "a share ends where the next begins",
        z3.Implies(one, start(t) + size(t) == start(t + 1)),
    )
    yield Obligation(
        "shares are all",
        "the first begins at 0 and the last ends at n",
        z3.Implies(z3.And(*given), z3.And(start(z3.IntVal(0)) == 0, start(ranks) == n)),
    )
    yield Obligation(
        "shares do not overlap",
        "a share ends before any later one begins",
        z3.Implies(z3.And(one, t < u, u < ranks), start(t) + size(t) <= start(u)),
    )
    yield Obligation(
        "shares are even",
        "two shares differ by at most one",
        z3.Implies(z3.And(one, u >= 0, u < ranks), z3.And(size(t) - size(u) <= 1, size(u) - size(t) <= 1)),
    )
    q = z3.Int("q")
    # Witnesses instead of an existential quantifier: the rank is a quotient, with its rest.
    large = z3.And(i >= 0, i < (b + 1) * r, i == q * (b + 1) + u, u >= 0, u <= b)
    yield Obligation(
        "a row in a large share has an owner",
        "row i belongs to rank i div (b + 1)",
        z3.Implies(z3.And(*given, large, q < r, q >= 0), z3.And(start(q) <= i, i < start(q) + size(q))),
    )
    small = z3.And((b + 1) * r <= i, i < n, i - (b + 1) * r == q * b + u, u >= 0, u < b, q >= 0, q < ranks - r)
    yield Obligation(
        "a row in a small share has an owner",
        "row i belongs to rank r + (i - (b + 1) r) div b",
        z3.Implies(z3.And(*given, small), z3.And(start(r + q) <= i, i < start(r + q) + size(r + q))),
    )
    unit = z3.Int("unit")
    yield Obligation(
        "units stay whole",
        "shares of units, in values, begin and end at units",
        z3.Implies(z3.And(one, unit >= 1), (start(t) * unit + size(t) * unit) == start(t + 1) * unit),
    )


def _meshes() -> Iterator[Obligation]:
    """An axis of `size` ranks that are `stride` apart: rank = (block * size + c) * stride + o."""
    size, stride, block, other, c, d, o, p = z3.Ints("size stride block other c d o p")
    here = z3.And(size >= 1, stride >= 1, block >= 0, c >= 0, c < size, o >= 0, o < stride)
    there = z3.And(other >= 0, d >= 0, d < size, p >= 0, p < stride)
    rank, mate = (block * size + c) * stride + o, (other * size + d) * stride + p
    yield Obligation(
        "coordinates are unique",
        "ranks are equal only if block, coordinate and offset are",
        z3.Implies(z3.And(here, there, rank == mate), z3.And(block * size + c == other * size + d, o == p)),
    )
    yield Obligation(
        "members differ by the coordinate",
        "two ranks of a group with one coordinate are one rank",
        z3.Implies(z3.And(here, d >= 0, d < size, rank == (block * size + d) * stride + o), c == d),
    )
    yield Obligation(
        "groups are closed",
        "changing the coordinate gives the same rest",
        z3.Implies(here, rank - c * stride == (block * size) * stride + o),
    )


def _heads() -> Iterator[Obligation]:
    """`heads` = kv * group query heads share kv keys. A rank has keys [a, b), or queries [x, y) of one key."""
    group, a, b, h, i, x, y, key = z3.Ints("group a b h i x y key")
    several = z3.And(group >= 1, a >= 0, a < b, a * group <= h, h < b * group, h == i * group + x, x >= 0, x < group)
    yield Obligation(
        "a rank's keys are those of its queries",
        "query h = i group + x of keys [a, b) attends to key i in [a, b)",
        z3.Implies(several, z3.And(a <= i, i < b)),
    )
    yield Obligation(
        "local pairing is the global one",
        "its place among the rank's keys is i - a",
        z3.Implies(several, h - a * group == (i - a) * group + x),
    )
    shared = z3.And(group >= 1, key >= 0, x >= 0, x < y, y <= group, key * group + x <= h, h < key * group + y)
    yield Obligation(
        "ranks that share a key attend to it",
        "queries [x, y) of a group all attend to its key",
        z3.Implies(shared, z3.And(key * group <= h, h < (key + 1) * group)),
    )


def _sums() -> Iterator[Obligation]:
    """Induction over ranks in an abelian group: what holds for the first k ranks holds for k + 1."""
    value = z3.DeclareSort("Value")
    plus = z3.Function("plus", value, value, value)
    linear = z3.Function("linear", value, value)
    zero = z3.Const("zero", value)
    x, y, w = z3.Consts("x y w", value)
    group = z3.And(
        z3.ForAll([x, y], plus(x, y) == plus(y, x)),
        z3.ForAll([x, y, w], plus(plus(x, y), w) == plus(x, plus(y, w))),
        z3.ForAll([x], plus(x, zero) == x),
    )
    is_linear = z3.ForAll([x, y], linear(plus(x, y)) == plus(linear(x), linear(y)))
    sum_k, part, image = z3.Consts("sum part image", value)
    yield Obligation(
        "a linear operation passes on an owed sum",
        "if it equals the sum of images so far, it does with one more rank",
        z3.Implies(
            z3.And(group, is_linear, image == linear(sum_k)),
            plus(image, linear(part)) == linear(plus(sum_k, part)),
        ),
    )
    left, right, p, q = z3.Consts("left right p q", value)
    yield Obligation(
        "owed sums add up",
        "the sum of two owed values is owed by the same ranks",
        z3.Implies(group, plus(plus(left, right), plus(p, q)) == plus(plus(left, p), plus(right, q))),
    )
    yield Obligation(
        "what one rank holds is counted once",
        "zeros of the other ranks add nothing",
        z3.Implies(z3.And(group, sum_k == w), plus(sum_k, zero) == w),
    )
    prefix = z3.Function("prefix", z3.IntSort(), value)
    segment = z3.Function("segment", z3.IntSort(), z3.IntSort(), value)
    a, b, c = z3.Ints("a b c")
    splits = z3.ForAll(
        [a, b, c], z3.Implies(z3.And(a <= b, b <= c), segment(a, c) == plus(segment(a, b), segment(b, c)))
    )
    k, end = z3.Ints("k end")
    yield Obligation(
        "a contraction is the sum of its shares",
        "the sum over the first shares, and the next, is that over both",
        z3.Implies(
            z3.And(group, splits, prefix(k) == segment(0, k), k >= 0, k <= end),
            plus(prefix(k), segment(k, end)) == segment(0, end),
        ),
    )
    inner = z3.Function("inner", z3.IntSort(), z3.IntSort(), z3.IntSort(), z3.IntSort(), value)
    e, f, s, t = z3.Ints("e f s t")
    rows = z3.ForAll(
        [e, f, s, t, a],
        z3.Implies(z3.And(e <= a, a <= f), inner(e, f, s, t) == plus(inner(e, a, s, t), inner(a, f, s, t))),
    )
    columns = z3.ForAll(
        [e, f, s, t, a],
        z3.Implies(z3.And(s <= a, a <= t), inner(e, f, s, t) == plus(inner(e, f, s, a), inner(e, f, a, t))),
    )
    m, n = z3.Ints("m n")
    yield Obligation(
        "experts and their width are summed together",
        "four boxes of experts by width make the whole",
        z3.Implies(
            z3.And(group, rows, columns, e <= m, m <= f, s <= n, n <= t),
            plus(plus(inner(e, m, s, n), inner(e, m, n, t)), plus(inner(m, f, s, n), inner(m, f, n, t)))
            == inner(e, f, s, t),
        ),
    )


def _why() -> Iterator[Obligation]:
    """Claims that are false, with a counterexample each: without the rule there would be wrong results."""
    x, y = z3.Reals("x y")
    yield Obligation(
        "a norm passes on an owed sum",
        "refuted: so sums are paid before norms (x / |x| of one column)",
        z3.ForAll([x, y], z3.Implies(z3.And(x > 0, y > 0), x / x + y / y == (x + y) / (x + y))),
        refuted=True,
    )
    bias, part, rest = z3.Reals("bias part rest")
    yield Obligation(
        "a whole value may be added to an owed sum",
        "refuted: every rank would add it",
        (part + bias) + (rest + bias) == (part + rest) + bias,
        refuted=True,
    )
    first, second = z3.Reals("first second")
    attend = z3.Function("attend", z3.RealSort(), z3.RealSort(), z3.RealSort())
    yield Obligation(
        "attention may see a share of the rows",
        "refuted: a row depends on the earlier rows of its request",
        attend(z3.RealVal(0), second) == attend(first, second),
        refuted=True,
    )
    size = z3.Int("size")
    yield Obligation(
        "groups of one size are one group",
        "refuted: ranks {0, 1} and {0, 2}",
        z3.Implies(size == 2, z3.IntVal(1) * size - 1 == z3.IntVal(2) * size - 2),
        refuted=True,
    )


def prove_with_z3(obligation: Obligation) -> Verdict:
    """z3's verdict."""
    solver = z3.Solver()
    solver.set("timeout", TIMEOUT_MS)
    solver.add(z3.Not(obligation.formula))
    return _timed(obligation, f"z3 {z3.get_version_string()}", lambda: str(solver.check()))


def prove_with_cvc5(obligation: Obligation) -> Verdict:
    """cvc5's verdict on the same claim in SMT-LIB."""
    import cvc5

    def answer() -> str:
        terms = cvc5.TermManager()
        solver = cvc5.Solver(terms)
        solver.setOption("tlimit-per", str(TIMEOUT_MS))
        for option in ("mbqi", "nl-ext-tplanes", "fresh-binders"):
            solver.setOption(option, "true")
        parser = cvc5.InputParser(solver, cvc5.SymbolManager(terms))
        parser.setStringInput(
            cvc5.InputLanguage.SMT_LIB_2_6, "(set-logic ALL)\n" + obligation.script(), obligation.name
        )
        said = ""
        while not (command := parser.nextCommand()).isNull():
            said = command.invoke(solver, parser.getSymbolManager()).strip() or said
        return said

    return _timed(obligation, f"cvc5 {cvc5.__version__}", answer)


def _timed(obligation: Obligation, solver: str, ask: Callable[[], str]) -> Verdict:
    started = time.perf_counter()
    said = ask()
    words = {"unsat": "FAILED", "sat": "refuted"} if obligation.refuted else {"unsat": "proved", "sat": "FAILED"}
    return Verdict(obligation.name, obligation.says, solver, words.get(said, "UNKNOWN"), time.perf_counter() - started)
