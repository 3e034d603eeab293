"""Policies of a study: by name, or made anew for every replica of every run, and never allowed to fail in silence."""

from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from inspect import getsource
from math import isnan
from pathlib import Path
from typing import Any, Final, cast

from ..scheduler import POLICIES, Policy
from .errors import ConfigurationError, PolicyFailed

PolicyChoice = str | Callable[[], Policy]
"""A built-in policy by name, FILE.py:CLASS, or a class or function without parameters that makes one."""


def is_policy_file(policy: PolicyChoice) -> bool:
    """Whether it is FILE.py:CLASS."""
    return isinstance(policy, str) and ".py:" in policy


def _from_file(policy: str) -> Callable[[], Policy]:
    """The class that FILE.py:CLASS names. Raises ConfigurationError if there is none, PolicyFailed if FILE raises."""
    file, _, name = policy.rpartition(":")
    spec = spec_from_file_location(f"tokenspeed_policy_{Path(file).stem}", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise ConfigurationError(f"policy is {policy!r}; there is no file {file!r}")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PolicyFailed(f"policy {Path(file).name} cannot be read: {type(error).__name__}: {error}") from error
    made = getattr(module, name, None)
    if not callable(made):
        raise ConfigurationError(f"policy is {policy!r}; {Path(file).name} has no class {name!r}")
    return cast("Callable[[], Policy]", made)


def policy_source(policy: PolicyChoice) -> str:
    """What a policy is, to tell whether it has changed: a name, with a hash of the source if it is not built in."""
    if is_policy_file(policy) and isinstance(policy, str):
        path = Path(policy.rpartition(":")[0])
        return f"{policy_name(policy)} {sha256(path.read_bytes()).hexdigest() if path.is_file() else 'missing'}"
    if isinstance(policy, str):
        return policy
    try:
        source = getsource(policy)
    except (OSError, TypeError):
        source = repr(policy)
    return f"{policy_name(policy)} {sha256(source.encode()).hexdigest()}"


def check_policy(policy: PolicyChoice) -> None:
    """Raise ConfigurationError if `policy` is neither the name of one nor makes one."""
    known = POLICIES.split(", ")
    if is_policy_file(policy) and isinstance(policy, str):
        _from_file(policy)
    elif isinstance(policy, str):
        if policy not in known:
            raise ConfigurationError(f"policy is {policy!r}; known policies: {POLICIES}, or FILE.py:CLASS")
    elif isinstance(policy, Policy):
        raise ConfigurationError(
            f"policy is the object {type(policy).__name__}; give its class, or a function that makes one: replicas and "
            "runs must not share what a policy remembers"
        )
    elif not callable(policy):
        raise ConfigurationError(f"policy is {policy!r}; give a name ({POLICIES}) or a subclass of Policy")


def policy_name(policy: PolicyChoice) -> str:
    """What reports call it."""
    if isinstance(policy, str):
        return Path(policy).name if is_policy_file(policy) else policy
    return getattr(policy, "__name__", repr(policy))


def _is_place(answer: Any) -> bool:
    return isinstance(answer, tuple | list) and len(answer) == 2 and all(_is_int64(part) for part in answer)


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _is_score(answer: Any) -> bool:
    return isinstance(answer, int | float) and not isnan(answer)


ANSWERS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "place": (_is_place, "a pair of integers of 64 bits"),
    "victim_cost": (_is_score, "a number"),
    "retention": (lambda answer: isinstance(answer, int) and 0 <= answer <= 3, "an integer from 0 to 3"),
    "fetch": (lambda answer: isinstance(answer, bool), "True or False"),
    "spill": (lambda answer: isinstance(answer, bool), "True or False"),
    "wait_for_prefix": (lambda answer: isinstance(answer, bool), "True or False"),
}
"""What each method of a policy must answer, and how to say it."""


class WatchedPolicy:
    """The policy of one scheduler. The scheduler answers errors with the default; this keeps them to raise them."""

    def __init__(self, choice: PolicyChoice) -> None:
        """Raises PolicyFailed if the policy cannot be made, and ConfigurationError if what is made is none."""
        self._error: BaseException | None = None
        self._said = ""
        name = policy_name(choice)
        if is_policy_file(choice) and isinstance(choice, str):
            choice = _from_file(choice)
        if isinstance(choice, str):
            self.policy: str | Policy = choice
            return
        try:
            made = choice()
        except Exception as error:
            raise PolicyFailed(f"policy {name} cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(made, Policy):
            raise ConfigurationError(f"policy {name} makes {made!r}, which is no subclass of Policy")
        for method, (fits, expected) in ANSWERS.items():
            if getattr(type(made), method) is not getattr(Policy, method):
                setattr(made, method, self._watch(name, method, getattr(made, method), fits, expected))
        self.policy = made

    def _watch(
        self, name: str, method: str, ask: Callable[..., Any], fits: Callable[[Any], bool], expected: str
    ) -> Callable[..., Any]:
        @wraps(ask)
        def watched(*given: Any) -> Any:
            try:
                answer = ask(*given)
            except BaseException as error:
                if self._error is None:
                    self._error = error
                    self._said = f"policy {name}: {method} raised {type(error).__name__}: {error}"
                raise
            if not fits(answer) and self._error is None:
                self._error = TypeError(f"{answer!r} is not {expected}")
                self._said = f"policy {name}: {method} answered {answer!r}; it must answer {expected}"
            return answer

        return watched

    def raise_errors(self) -> None:
        """Raise PolicyFailed if the policy has failed, from what it raised."""
        if self._error is not None:
            raise PolicyFailed(self._said) from self._error
