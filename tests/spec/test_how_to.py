"""The how-to page is true: its changes, applied to a copy of the specification, lead to the output that it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tokenspeed.spec.conform._replay as replay
import tokenspeed.spec.search._explorer as explorer

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "docs/adding-a-transition.md").read_text(), re.M | re.S)
VERIFY = "$ tokenspeed verify\n"
CHANGES = [body for language, body in BLOCKS if language == "diff"]
"""What the page changes, in order."""


def shown_after(command: str) -> list[tuple[int, str]]:
    """Outputs of a command, each with the number of changes before it; those after all changes need a compiler."""
    found, changes = [], 0
    for language, body in BLOCKS:
        changes += language == "diff"
        if language == "console" and body.startswith(command) and changes < len(CHANGES):
            found.append((changes, body.removeprefix(command)))
    return found


FAILING = [(n, output) for n, output in shown_after(VERIFY) if "VIOLATED" in output]

EXPLAIN = """
from trial.spec.explain.debugger import debug
from trial.spec.commands.printing import make_console, print_findings
from trial.spec.system import SPEC
from trial.spec.prove.prover import Prover
prover, new = Prover(SPEC), ("submit_constrained", "grammar_ready")
found = [o for t in new for o in prover.prove_transition(SPEC.transitions[t])]
found += prover.prove_stages() + [o for t in new for o in prover.prove_stages(SPEC.transitions[t])]
print_findings(debug(SPEC, [o for o in found if not o.proved], most=1), make_console())
"""
MUTANTS = """
from trial.spec.system import SPEC
from trial.spec.prove.mutants import Mutation, mutants
judge = Mutation(SPEC).judge
for m in mutants(SPEC):
    if m.transition.name == "submit_constrained" and (verdict := judge(m).verdict) != "killed":
        print(f"{verdict}: {m}")
"""
WHOLE = """
from trial.spec.commands.verify_command import run_verify
run_verify()
"""
SHORT_SEARCHES = """
from trial.spec.explain import debugger
from trial.spec.search import reachable
debugger.PYTHON_STATES = reachable.PYTHON_STATES = 1_000
"""
"""Where the output does not say how many states were searched in vain."""


def apply(change: str, folder: Path) -> None:
    """Apply one block: `--- file`, then hunks after `@@`, each of which has one place."""
    for part in re.split(r"^--- ", change, flags=re.M)[1:]:
        name, *hunks = re.split(r"^@@\n", part, flags=re.M)
        path = folder / name.strip()
        text = path.read_text()
        for lines in (hunk.splitlines() for hunk in hunks):
            old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
            new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
            assert text.count(old) == 1, f"{name.strip()} has not one place for:\n{old}"
            text = text.replace(old, new)
        path.write_text(text)


def run(program: str, changes: int, folder: Path) -> list[str]:
    """The lines that a program prints about a copy of the specification with the first changes."""
    package = folder / "trial"
    shutil.copytree(ROOT / "spec", package / "spec", ignore=shutil.ignore_patterns("__pycache__"))
    for module in (explorer, replay):
        room = module.__name__.split(".")[1:-1]
        shutil.copy(str(module.__file__), package.joinpath(*room))
    (package / "__init__.py").touch()
    for change in CHANGES[:changes]:
        apply(change, package)
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in program.strip().splitlines())
    (folder / "program.py").write_text(guarded)
    answer = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert not answer.stderr, answer.stderr
    return answer.stdout.splitlines()


def told(shown: str, printed: list[str]) -> None:
    """Every line that is shown was printed, in this order; `...` stands for lines, or for the rest of one."""
    rest = iter([line.rstrip() for line in printed])
    for line in shown.splitlines():
        if line not in ("", "..."):
            start = line.removesuffix("...").rstrip()
            whole = not line.endswith("...")
            assert any(p == start if whole else p.startswith(start) for p in rest), f"not printed here: {line}"


def test_the_page_has_the_steps() -> None:
    assert [n for n, _ in FAILING] == [1, 2, 3, 4, 5] and len(CHANGES) == 8


def test_a_state_and_its_transitions_take_four_files() -> None:
    assert len({name for change in CHANGES for name in re.findall(r"^--- (\S+)", change, re.M)}) <= 4


@pytest.mark.parametrize(("changes", "shown"), FAILING, ids=lambda x: str(x) if isinstance(x, int) else "")
def test_a_failing_step_prints_what_is_shown(changes: int, shown: str, tmp_path: Path) -> None:
    searched_in_vain = "Reachable? no" in shown
    told(shown, run(EXPLAIN if searched_in_vain else SHORT_SEARCHES + EXPLAIN, changes, tmp_path))


def test_then_everything_is_proved(tmp_path: Path) -> None:
    changes, shown = shown_after(VERIFY)[-1]
    assert "VIOLATED" not in shown
    told(shown, run(SHORT_SEARCHES + WHOLE, changes, tmp_path))


def test_guards_that_are_too_strict_survive_until_it_is_stated(tmp_path: Path) -> None:
    shown = next(body for _, body in BLOCKS if body.startswith("survived: "))
    assert run(MUTANTS, len(CHANGES) - 1, tmp_path / "before") == shown.splitlines()
    assert run(MUTANTS, len(CHANGES), tmp_path / "after") == []
