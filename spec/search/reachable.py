"""The shortest way to a violation, whether or not the compiled explorer is of the specification at hand."""

from __future__ import annotations

from collections.abc import Sequence

from ..language.spec import Spec
from .explore import Exploration, Explored, compiled_from, search, survey
from .instances import INSTANCES, Instance
from .python_search import PythonSearch
from .variants import variant

COMPILED_STATES = 300_000
"""States that each instance gets in the compiled explorer: a quarter of a second."""

PYTHON_STATES = 10_000
"""States that an instance gets when the search has to run in Python: about a second."""

PYTHON_INSTANCES = INSTANCES[::6]
"""From the smallest to the largest, for searches in Python."""

REBUILD = "make generated && make setup"


def survey_anyway(spec: Spec) -> Exploration:
    """The survey of small instances: compiled if possible, else the beginning of it in Python, marked as stale."""
    if compiled_from(spec):
        return survey(spec)
    exploration = Exploration(spec, stale=True)
    for instance in PYTHON_INSTANCES:
        exploration.explored.append(PythonSearch(spec, instance).search(PYTHON_STATES, check_lemmas=True))
    return exploration


def searches(
    spec: Spec,
    labels: Sequence[str] = (),
    lemmas: bool = False,
    choices: bool = False,
    instances: Sequence[Instance] = (),
) -> list[Explored]:
    """The small instances one after another, until one has a violation; that is then the last.

    `labels`: guards and effects that are switched off; `lemmas`: lemmas and counters count as violations too;
    `choices`: so do choices of which not exactly one transition is possible (always in Python).
    """
    done: list[Explored] = []
    compiled = compiled_from(spec) and not choices
    for instance in instances or (INSTANCES if compiled else PYTHON_INSTANCES):
        if compiled:
            done.append(search(instance, tuple(labels), COMPILED_STATES, lemmas))
        else:
            with variant(spec, labels) as changed:
                done.append(PythonSearch(changed, instance).search(PYTHON_STATES, lemmas, choices))
        if done[-1].violated:
            break
    return done


def counterexample(spec: Spec, labels: Sequence[str] = (), lemmas: bool = False) -> Explored | None:
    """The shortest violation in the first instance that has one, or None."""
    last = searches(spec, labels, lemmas)[-1]
    return last if last.violated else None


__all__ = ["COMPILED_STATES", "PYTHON_STATES", "REBUILD", "counterexample", "searches", "survey_anyway"]
