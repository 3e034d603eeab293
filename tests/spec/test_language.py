"""The specification language refuses what makes no sense and prints what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenspeed.spec import machines
from tokenspeed.spec.language.expressions import BOOL, INT, Expr, SpecError, conjuncts, if_else, lift, to_text
from tokenspeed.spec.language.spec import ANY, Spec, Transition


@pytest.fixture
def spec() -> Spec:
    spec = Spec("light")
    lamp = spec.sort("Lamp", "l")
    color = spec.enum("Color", RED="stop", GREEN="go")
    spec.variable("shows", lamp, of=color, init=color.RED, doc="")
    spec.variable("count", lamp, of=INT, init=0, doc="")
    spec.variable("seen", lamp, lamp, of=BOOL, init=False, doc="")
    return spec


def test_truth_value_of_an_expression_is_an_error(spec: Spec) -> None:
    x = spec.variables["count"](Expr("param", "l", type="Lamp"))
    with pytest.raises(SpecError, match=r"write & \| ~ >>"):
        assert x == 1


def test_wrong_index_is_an_error(spec: Spec) -> None:
    with pytest.raises(SpecError, match="count is indexed by"):
        spec.variables["count"](lift(3))
    with pytest.raises(SpecError, match="seen has 2 indices, not 1"):
        spec.variables["seen"][Expr("param", "l", type="Lamp")]


def test_unknown_state_names_the_known_ones(spec: Spec) -> None:
    with pytest.raises(SpecError, match="Color has no state BLUE; it has RED, GREEN"):
        _ = spec.enums["Color"].BLUE


def test_concrete_variables_have_no_bulk_effects(spec: Spec) -> None:
    lamp = spec.sorts["Lamp"]
    with pytest.raises(SpecError, match="only ghost variables"):

        @spec.transition(x=lamp)
        def all_on(t: Transition, x: Expr) -> None:
            t.set(spec.variables["seen"][x, ANY], True)


def test_writing_a_place_twice_is_an_error(spec: Spec) -> None:
    lamp, count = spec.sorts["Lamp"], spec.variables["count"]
    with pytest.raises(SpecError, match="writes the same place twice"):

        @spec.transition(x=lamp)
        def twice(t: Transition, x: Expr) -> None:
            t.add(count[x], 1)
            t.add(count[x], 2)


def test_formulas_read_like_formulas(spec: Spec) -> None:
    x, y = (Expr("param", name, type="Lamp") for name in "lm")
    shows, count = spec.variables["shows"], spec.variables["count"]
    color = spec.enums["Color"]
    assert to_text((shows(x) == color.RED) >> (count(x) + 1 <= 3)) == "(shows(l) = RED) implies ((count(l) + 1) <= 3)"
    assert to_text(shows(x).isin(color.RED, color.GREEN)) == "shows(l) in {RED, GREEN}"
    assert to_text(~(shows(x) == color.RED)) == "shows(l) != RED"
    assert to_text(if_else(x == y, count(x), 0)) == "(if l = m then count(l) else 0)"


def test_conjuncts_of_an_implication_keep_its_condition(spec: Spec) -> None:
    x = Expr("param", "l", type="Lamp")
    count = spec.variables["count"]
    parts = conjuncts((count(x) <= 1) >> ((lift(0) <= count(x)) & (count(x) <= 5)))
    assert [to_text(p) for p in parts] == [
        "(count(l) <= 1) implies (0 <= count(l))",
        "(count(l) <= 1) implies (count(l) <= 5)",
    ]


def test_digest_changes_with_any_formula() -> None:
    def digest(limit: int) -> str:
        spec = Spec("s")
        thing = spec.sort("Thing", "t")
        n = spec.variable("n", thing, of=INT, init=0, doc="")

        @spec.transition(x=thing)
        def grow(t: Transition, x: Expr) -> None:
            t.guard("small", n(x) < limit)
            t.add(n[x], 1)

        return spec.digest()

    assert digest(1) == digest(1) != digest(2)


def test_the_machines_stay_short_enough_to_be_read_in_one_go() -> None:
    lines = {p.stem: len(p.read_text().splitlines()) for p in Path(str(machines.__file__)).parent.glob("*.py")}
    assert sum(lines[name] for name in ("vocabulary", "request", "block", "step")) <= 600
    assert sum(lines[name] for name in ("copy", "prefix_tree")) <= 300
