"""What a study of many cells is: a base, what is swept, seeds and targets. Read from TOML or made in Python.

    name = "Which policy holds 70 tokens/s?"
    seeds = 5                                   # or a list
    baseline = { policy = "default" }           # what others are compared with, seed by seed
    targets = { ttft_ms = 2000, tokens_per_s = 70 }

    [base]                                      # settings of every cell: the fields of StudySettings
    workload = "swe-agent"
    limit = 16

    [sweep]                                     # every combination is a cell
    policy = ["default", "lru", "my_policy.py:ShortestFirst"]
    concurrency = [4, 8, 12]

    [configurations.tp4]                        # sets of settings that go together; also swept
    tp = 4
    [configurations.tp8]
    tp = 8

Paths are relative to the file.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigurationError
from ..policies import is_policy_file
from ..study.metrics import GOOD_TOKENS_PER_S
from ..study.settings import StudySettings, settings_as_json
from ..workload.presets import PRESETS
from ..world.dispatcher import parse_outage

CONFIGURATION: Final = "configuration"
"""The axis of named sets of settings."""

FIELDS: Final = frozenset(entry.name for entry in fields(StudySettings))


@dataclass(frozen=True, slots=True)
class Targets:
    """What a call must reach to count for goodput."""

    ttft_ms: float = 2_000.0
    tokens_per_s: float = GOOD_TOKENS_PER_S


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation of a study."""

    choices: tuple[tuple[str, str], ...]
    """(axis, value as text) of what is swept, the seed left out."""
    seed: int
    settings: StudySettings


@dataclass(frozen=True)
class Experiment:
    """A study of many cells. Raises ConfigurationError naming the field that cannot work."""

    name: str
    base: StudySettings
    sweep: Mapping[str, Sequence[Any]]
    """Values by field of StudySettings."""
    configurations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sets of settings by name."""
    seeds: Sequence[int] = (0,)
    baseline: Mapping[str, Any] = field(default_factory=dict)
    """Axes with the values that others are compared with; empty: nothing is compared."""
    targets: Targets = Targets()

    def __post_init__(self) -> None:
        for where, names in (
            ("sweep", self.sweep),
            *((f"configurations.{n}", c) for n, c in self.configurations.items()),
        ):
            for name in names:
                if name not in FIELDS or name == "seed":
                    raise ConfigurationError(f"{where}: {name!r} is no setting that can be swept; use {_known()}")
        for name, values in self.sweep.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ConfigurationError(f"sweep: {name!r} is {values!r}; it must be a list of values")
            if len(set(map(_text, values))) < len(values):
                raise ConfigurationError(f"sweep: {name!r} has a value twice")
        for name in self.baseline:
            if name not in self.axes():
                raise ConfigurationError(f"baseline: {name!r} is not swept; swept are {', '.join(self.axes())}")
            if _text(self.baseline[name]) not in self.axes()[name]:
                raise ConfigurationError(
                    f"baseline: {name!r} is {_text(self.baseline[name])!r}; it must be one of "
                    f"{', '.join(self.axes()[name])}"
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(f"seeds is {list(self.seeds)}; it must be different numbers, at least one")

    def axes(self) -> dict[str, list[str]]:
        """What is swept, with its values as text, the seed left out."""
        axes = {CONFIGURATION: list(self.configurations)} if self.configurations else {}
        return axes | {name: [_text(value) for value in values] for name, values in self.sweep.items()}

    def cells(self) -> list[Cell]:
        """All simulations, in the order of the axes, seeds last."""
        made = []
        configurations: Sequence[tuple[str | None, Mapping[str, Any]]] = list(self.configurations.items()) or [
            (None, {})
        ]
        for name, configuration in configurations:
            for values in product(*self.sweep.values()):
                swept = dict(zip(self.sweep, values, strict=True))
                choices = [] if name is None else [(CONFIGURATION, name)]
                choices += [(axis, _text(value)) for axis, value in swept.items()]
                for seed in self.seeds:
                    settings = replace(self.base, **{**configuration, **swept, "seed": seed})
                    if len(self.seeds) > 1 and settings.workload not in PRESETS and settings.sample is None:
                        raise ConfigurationError(
                            f"seeds is {list(self.seeds)}, but nothing in {_text(settings.workload)!r} is drawn, so "
                            "all would be the same; set sample to so many sessions"
                        )
                    made.append(Cell(tuple(choices), seed, settings))
        return made

    def as_json(self) -> dict[str, Any]:
        """The study as JSON values."""
        return {
            "name": self.name,
            "base": settings_as_json(self.base),
            "configurations": {name: dict(values) for name, values in self.configurations.items()},
            "sweep": {name: [_text(value) for value in values] for name, values in self.sweep.items()},
            "seeds": list(self.seeds),
            "baseline": {name: _text(value) for name, value in self.baseline.items()},
            "targets": {"ttft_ms": self.targets.ttft_ms, "tokens_per_s": self.targets.tokens_per_s},
        }


def read_experiment(path: Path) -> Experiment:
    """The study in a TOML file. Raises ConfigurationError naming the field that cannot be read."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"study {path.name!r} cannot be read: {error}") from error
    known = {"name", "seeds", "baseline", "targets", "base", "sweep", "configurations"}
    for name in content.keys() - known:
        raise ConfigurationError(f"{path.name}: {name!r} is not known; use {', '.join(sorted(known))}")
    folder = path.parent
    base = _settings(content.get("base", {}), f"{path.name}, base", folder)
    seeds = content.get("seeds", 1)
    if isinstance(seeds, bool) or not isinstance(seeds, int | list):
        raise ConfigurationError(f"{path.name}: seeds is {seeds!r}; it must be a number of seeds or a list")
    sweep = {
        name: [_value(name, value, folder) for value in values] if isinstance(values, list) else values
        for name, values in content.get("sweep", {}).items()
    }
    configurations = {
        name: {key: _value(key, value, folder) for key, value in values.items()}
        for name, values in content.get("configurations", {}).items()
    }
    baseline = {name: _value(name, value, folder) for name, value in content.get("baseline", {}).items()}
    try:
        return Experiment(
            str(content.get("name", path.stem)),
            StudySettings(**base),
            sweep,
            configurations,
            list(range(seeds)) if isinstance(seeds, int) else seeds,
            baseline,
            Targets(**content.get("targets", {})),
        )
    except TypeError as error:
        raise ConfigurationError(f"{path.name}: {error}") from error


def _settings(values: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    unknown = sorted(values.keys() - FIELDS)
    if unknown:
        raise ConfigurationError(f"{where}: {unknown[0]!r} is no setting; use {_known()}")
    if "workload" not in values:
        raise ConfigurationError(f"{where}: 'workload' is missing; give a trace file or a preset: {', '.join(PRESETS)}")
    return {name: _value(name, value, folder) for name, value in values.items()}


def _check_type(name: str, value: Any) -> None:
    """Raise ConfigurationError if a value of TOML is of another type than the setting."""
    default = next((entry.default for entry in fields(StudySettings) if entry.name == name), None)
    if name == "max_context":
        kinds: tuple[type, ...] = (int, str)
    elif name == "outages":
        kinds = (list,)
    elif name == "workload":
        kinds = (str,)
    elif isinstance(default, float):
        kinds = (int, float)
    else:
        kinds = (int,) if default is None else (type(default),)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigurationError(f"{name} is {value!r}; it must be of type {wanted}")


def _value(name: str, value: Any, folder: Path) -> Any:
    """A value of TOML as StudySettings wants it."""
    if name in FIELDS:
        _check_type(name, value)
    if name == "outages":
        return tuple(parse_outage(str(text)) for text in value)
    if name == "workload" and value not in PRESETS:
        return str(folder / str(value))
    if (name == "policy" and is_policy_file(value)) or (name == "cost" and value != "roofline"):
        return str(folder / str(value))
    return value


def _text(value: Any) -> str:
    """A value as it is called in tables."""
    if isinstance(value, str) and "/" in value:
        return Path(value).name
    return getattr(value, "__name__", None) or str(value)


def _known() -> str:
    return ", ".join(sorted(FIELDS - {"seed"}))
