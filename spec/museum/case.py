"""One historic bug: what to leave out of the specification to get it back, and the timeline that shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..explain.debugger import fill_in_choice, fill_in_idle
from ..explain.timeline import Replay, Timeline
from ..language.spec import Spec
from ..search.explore import Explored, compiled_from, search
from ..search.instances import INSTANCES
from ..search.python_search import NO_IDLE_TRANSITION, PythonSearch
from ..search.reachable import PYTHON_STATES, REBUILD
from ..search.variants import variant


@dataclass(frozen=True)
class Source:
    """Where a bug was reported or fixed: a repository on GitHub, and the number of an issue or pull request."""

    repository: str
    kind: str
    number: int

    @property
    def url(self) -> str:
        """Address of the thread."""
        return f"https://github.com/{self.repository}/{'pull' if self.kind == 'PR' else 'issues'}/{self.number}"

    def __str__(self) -> str:
        return f"{self.repository.split('/')[1]} {'PR ' if self.kind == 'PR' else ''}#{self.number}"


@dataclass(frozen=True)
class Bug:
    """A historic bug.

    `left_out`: guards, effects (`transition:effect variable`) and transitions without which the specification has it;
    `property`: what excludes it; `aside`: transitions that the timeline does without, so that it tells this story and
    not a shorter one with the same cause; `requests`: fewest requests that it takes.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    cause: str
    wrong: str
    here: str
    left_out: tuple[str, ...]
    property: str
    aside: tuple[str, ...] = ()
    requests: int = 1


@dataclass(frozen=True)
class Exhibit:
    """A bug with the shortest way to where its property is false."""

    bug: Bug
    found: Explored
    timeline: Timeline
    seconds: float


class NotShown(RuntimeError):
    """No small instance reaches the violation, or the compiled explorer is of another specification."""


def exhibit(spec: Spec, bug: Bug) -> Exhibit:
    """Search for the bug. Raises NotShown if there is no timeline, ValueError if a name in it does not exist."""
    start = time.perf_counter()
    if not compiled_from(spec):
        raise NotShown(f"the compiled explorer is of another specification; run: {REBUILD}")
    for instance in INSTANCES:
        if instance.requests < bug.requests:
            continue
        labels = (*bug.left_out, *bug.aside)
        if bug.property in spec.properties or bug.property.startswith("count "):
            found = search(instance, labels, only=bug.property)
        else:
            with variant(spec, labels) as changed:
                idle = bug.property == NO_IDLE_TRANSITION
                found = PythonSearch(changed, instance).search(PYTHON_STATES, check_choices=not idle, check_idle=idle)
        if found.violated == bug.property:
            return Exhibit(bug, found, _timeline(spec, bug, found), time.perf_counter() - start)
    raise NotShown(f"{bug.name}: no small instance violates {bug.property!r}")


def _timeline(spec: Spec, bug: Bug, found: Explored) -> Timeline:
    replay = Replay(spec, found.instance, bug.left_out)
    if bug.property in spec.properties or bug.property.startswith("count "):
        return replay.timeline(found.trace, bug.property)
    timeline, state = replay.events(found.trace)
    if bug.property == NO_IDLE_TRANSITION:
        fill_in_idle(timeline)
        return timeline
    choice = next(c for c in spec.choices if c.name == bug.property)
    with variant(spec, bug.left_out):
        fill_in_choice(spec, replay, timeline, choice, state)
    return timeline


__all__ = ["Bug", "Exhibit", "NotShown", "Source", "exhibit"]
