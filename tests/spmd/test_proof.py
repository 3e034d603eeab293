from dataclasses import replace

import pytest
import z3

from tokenspeed.engine.spmd.commands.evidence import check_mappings, check_mutants, exact_row, merged
from tokenspeed.engine.spmd.derivation import Derivation, Rule
from tokenspeed.engine.spmd.mesh import DENSE, Mesh, Parallelism, PlacementError
from tokenspeed.engine.spmd.placements import Column
from tokenspeed.engine.spmd.proof.exact import SAMPLES, check
from tokenspeed.engine.spmd.proof.museum import Exhibit, exhibits
from tokenspeed.engine.spmd.proof.mutants import with_weight
from tokenspeed.engine.spmd.proof.obligations import (
    Obligation,
    obligations,
    prove_with_cvc5,
    prove_with_z3,
)
from tokenspeed.engine.spmd.proof.sums import Sums, coverage
from tokenspeed.engine.spmd.proof.witnesses import Rotated, Witness, witnesses


@pytest.mark.parametrize("obligation", obligations(), ids=lambda o: o.name)
def test_both_solvers_decide_every_obligation_as_claimed(obligation: Obligation) -> None:
    wanted = "refuted" if obligation.refuted else "proved"
    assert prove_with_z3(obligation).verdict == wanted
    assert prove_with_cvc5(obligation).verdict == wanted


@pytest.mark.parametrize("obligation", [o for o in obligations() if not o.refuted], ids=lambda o: o.name)
def test_no_theorem_is_empty(obligation: Obligation) -> None:
    assert z3.is_implies(obligation.formula)
    premise, conclusion = obligation.formula.children()
    if "forall" in premise.sexpr():  # axioms of a group: finding a model of them is not the solver's strength
        assert not z3.is_true(z3.simplify(conclusion))
        return
    solver = z3.Solver()
    solver.add(premise)
    assert solver.check() == z3.sat


def test_a_wrong_theorem_fails() -> None:
    n = z3.Int("n")
    assert prove_with_z3(Obligation("wrong", "n is small", n < 5)).verdict == "FAILED"
    assert prove_with_cvc5(Obligation("wrong", "n is small", n < 5)).verdict == "FAILED"
    assert prove_with_z3(Obligation("true", "n is n", n == n, refuted=True)).verdict == "FAILED"


@pytest.mark.parametrize("witness", witnesses(), ids=lambda w: w.rule.name)
def test_each_rule_alone_refuses_its_wrong_plan(witness: Witness) -> None:
    assert witness.refused() is not None
    assert witness.passes_without()


def test_every_rule_has_a_witness() -> None:
    assert {witness.rule for witness in witnesses()} == set(Rule)


@pytest.mark.parametrize("exhibit", exhibits(), ids=lambda e: e.name)
def test_the_museum_s_plans_are_refused_where_rows_differ(exhibit: Exhibit) -> None:
    refusal = exhibit.refusal()
    assert refusal is not None
    assert "reduce-scatter at layer 0 experts: ranks that sum have different numbers of rows" in refusal
    lines = exhibit.timeline()
    assert lines[-2].startswith("reduce-scatter layer 0 experts, all ranks")
    assert len(set(lines[-2].split("ranks")[1].split("rows"))) > 2


def test_parts_on_exact_integers_make_the_whole() -> None:
    row = exact_row()
    assert row.problems == ()
    assert row.counted > 100


def test_exact_integers_notice_a_slice_at_the_wrong_place() -> None:
    module = next(sample for sample in SAMPLES if sample.name == "dense")
    mesh = Mesh.of(Parallelism(2))
    up = next(weight for weight in module.weights if "up_proj" in weight.name)
    wrong = replace(module, output=with_weight(module.output, replace(up, placement=Rotated(Column(DENSE)))))
    blind = Derivation(mesh, mesh.groups(("tp",)), frozenset(Rule))
    with pytest.raises((PlacementError, ValueError)):
        check(wrong, blind)


def test_parts_of_a_sum_are_counted_cell_by_cell() -> None:
    def box(start: int, stop: int, low: int, high: int) -> tuple[tuple[str, int, int, int], ...]:
        return (("expert", start, stop, 4), ("width", low, high, 6))

    tiles = [box(0, 2, 0, 3), box(0, 2, 3, 6), box(2, 4, 0, 6)]
    assert coverage(tuple((tile, 1) for tile in tiles)) == {1}
    assert coverage(tuple((tile, 1) for tile in [*tiles, *tiles])) == {2}
    assert coverage(tuple((tile, 1) for tile in tiles[1:])) == {0, 1}
    assert coverage(((box(0, 3, 0, 6), 1), (box(2, 4, 0, 6), 1))) == {1, 2}
    sums = Sums()
    whole = sums.of([(("f", 1), ())])
    assert sums.add(*(sums.of([(("f", 1), tile)]) for tile in tiles)) == whole
    assert sums.add(*(sums.of([(("f", 1), tile)]) for tile in tiles[1:])) != whole
    assert sums.add(whole, whole) != whole


def test_a_sample_of_all_mappings_and_mutants_holds() -> None:
    rows = [*merged("mappings", [check_mappings(7, 80)]), *merged("mutants", [check_mutants(5, 18)])]
    assert [row.problems for row in rows if row.problems] == []
    assert sum(row.counted for row in rows if row.section == "mappings") > 50
    assert sum(row.counted for row in rows if row.section == "mutants") > 50
