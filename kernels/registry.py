"""The registry of kernels: what runs an operation on a given device, dtype and shape, and why.

An operation (`mla_decode`) has one public function and any number of kernels. A kernel declares where it fits:
platforms, dtypes, and constraints on the operation's traits. Selection keeps the kernels that fit and takes the one in
the highest priority band, passing over those that must be asked for by name.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from .constraints import Constraint, Trait, shown
from .device import ANY_DEVICE, Capability, Platform, capability_of
from .discovery import Unavailable, import_folder, import_plugins
from .errors import InvalidKernel, KernelDoesNotFit, UnknownKernel, UnknownOperation
from .kernel import Band, Candidate, Kernel, Problem, Selection

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])

Derivation = Callable[[Mapping[str, Any]], Trait]
"""Computes a trait from the others, given by name."""


class Operation:
    """One operation: the names of its traits, its kernels, and the selections made so far."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        traits: tuple[str, ...],
        derived: Mapping[str, Derivation],
        folder: str | None,
    ) -> None:
        self.name = name
        self.traits = traits
        self.derived = derived
        self.variable = f"TOKENSPEED_KERNEL_{name.upper()}"
        self._registry = registry
        self._folder = folder
        self._kernels: dict[str, Kernel] = {}
        self._unavailable: list[Unavailable] = []
        self._selections: dict[tuple[object, ...], Selection] = {}
        self._loaded = False

    def add(self, kernel: Kernel) -> None:
        """Register a kernel. Raises InvalidKernel if its declaration contradicts the operation or a kernel it has."""
        if kernel.name in self._kernels:
            raise InvalidKernel(f"{self.name} already has a kernel named {kernel.name!r}; choose another name")
        known = (*self.traits, *self.derived)
        unknown = [trait for trait in kernel.traits if trait not in known]
        if unknown:
            raise InvalidKernel(
                f"kernel {kernel.name!r} constrains {', '.join(unknown)}, but {self.name} has {', '.join(known)}"
            )
        for trait, constraint in kernel.traits.items():
            if not isinstance(constraint, Constraint):
                wanted = f"use a constraint, such as exactly({constraint!r})"
                raise InvalidKernel(f"kernel {kernel.name!r} has {trait}={constraint!r}; {wanted}")
        if kernel.band is Band.REFERENCE and (kernel.platforms != (ANY_DEVICE,) or kernel.dtypes or kernel.traits):
            raise InvalidKernel(f"kernel {kernel.name!r} is a REFERENCE and must fit everything: drop its limits")
        if kernel.only_by_name is not None and (kernel.band is Band.REFERENCE or not kernel.only_by_name):
            raise InvalidKernel(
                f"kernel {kernel.name!r} has only_by_name={kernel.only_by_name!r}; say why it is not to be chosen, and "
                "leave it out for a REFERENCE, which runs where nothing else does"
            )
        self._kernels[kernel.name] = kernel
        self._selections.clear()

    def kernels(self) -> tuple[Kernel, ...]:
        """All kernels, best band first, then by name."""
        self._load()
        return tuple(sorted(self._kernels.values(), key=lambda kernel: (-kernel.band, kernel.name)))

    def select(
        self, device: torch.device, dtype: torch.dtype, traits: tuple[Trait, ...], override: str | None = None
    ) -> Selection:
        """The selection for a problem, computed once for each key.

        `traits` are values in the order of `self.traits`. A non-empty `override` names the kernel to use; without one
        the environment variable `TOKENSPEED_KERNEL_<OPERATION>` may. Raises UnknownKernel, KernelDoesNotFit.
        """
        forced = os.environ.get(self.variable)
        key = (device, dtype, traits, override, forced)
        selection = self._selections.get(key)
        if selection is None:
            selection = self.judge(self.problem(device, dtype, traits), override)
            _LOG.debug("%s", selection)
            self._selections[key] = selection
        return selection

    def problem(self, device: torch.device, dtype: torch.dtype, traits: tuple[Trait, ...]) -> Problem:
        """What kernels are judged for; arguments as of `select`."""
        return Problem(self.name, capability_of(device), dtype, self.named(traits))

    def named(self, traits: tuple[Trait, ...]) -> dict[str, Trait]:
        """Trait values by name, derived ones last."""
        values = dict(zip(self.traits, traits, strict=True))
        return values | {name: derive(values) for name, derive in self.derived.items()}

    def judge(self, problem: Problem, override: str | None = None) -> Selection:
        """Judge every kernel for a problem, uncached; otherwise like `select`."""
        kernels = self.kernels()
        objections = {kernel.name: kernel.objections(problem) for kernel in kernels}
        fitting = [kernel for kernel in kernels if not objections[kernel.name]]
        forced = os.environ.get(self.variable)
        if override or forced:
            wanted_by = f"kernel={override!r}" if override else f"{self.variable}={forced}"
            chosen, why = self._overridden(problem, override or forced or "", wanted_by, objections), wanted_by
        else:
            chosen = next(kernel for kernel in fitting if kernel.only_by_name is None)
            why = "highest band among those that fit"
        candidates = []
        for kernel in kernels:
            if kernel is chosen:
                candidates.append(Candidate(kernel.name, kernel.band, "chosen", (why,)))
            elif objections[kernel.name]:
                candidates.append(Candidate(kernel.name, kernel.band, "rejected", objections[kernel.name]))
            elif kernel.only_by_name is not None:
                candidates.append(Candidate(kernel.name, kernel.band, "only named", (kernel.only_by_name,)))
            else:
                candidates.append(Candidate(kernel.name, kernel.band, "fits", (f"{chosen.name} goes first",)))
        for module in self.unavailable():
            candidates.append(Candidate(module.module, None, "unavailable", (module.reason,)))
        return Selection(problem, chosen, tuple(candidates))

    def _overridden(
        self, problem: Problem, wanted: str, wanted_by: str, objections: Mapping[str, tuple[str, ...]]
    ) -> Kernel:
        if wanted not in objections:
            missing = "".join(f"; {module.module} {module.reason}" for module in self.unavailable())
            raise UnknownKernel(
                f"{wanted_by}: {self.name} has no kernel of this name; it has {', '.join(objections)}{missing}"
            )
        if objections[wanted]:
            fitting = ", ".join(name for name, found in objections.items() if not found)
            raise KernelDoesNotFit(
                f"{wanted_by} cannot run {problem}: {'; '.join(objections[wanted])}. Kernels that fit: {fitting}"
            )
        return self._kernels[wanted]

    def unavailable(self) -> list[Unavailable]:
        """Modules of kernels that could not be imported: this operation's, and all plugins'."""
        self._load()
        return self._unavailable + self._registry.unavailable_plugins

    def _load(self) -> None:
        """Import this operation's kernels and all plugins, once."""
        with self._registry.loading:
            if self._loaded:
                return
            if self._folder is not None:
                self._unavailable = import_folder(self._folder)
            self._registry.load_plugins()
            if not any(kernel.band is Band.REFERENCE for kernel in self._kernels.values()):
                raise InvalidKernel(f"operation {self.name!r} has no kernel in band REFERENCE: register one")
            self._loaded = True


class Registry:
    """Operations by name. `entry_point_group` names the entry points of third parties' kernel modules, if any."""

    def __init__(self, entry_point_group: str | None = None) -> None:
        self.unavailable_plugins: list[Unavailable] = []
        self._group = entry_point_group
        self.loading = threading.RLock()
        self._operations: dict[str, Operation] = {}

    def declare(
        self,
        name: str,
        *,
        traits: tuple[str, ...],
        derived: Mapping[str, Derivation] | None = None,
        folder: str | None = None,
    ) -> Operation:
        """Add an operation.

        `derived` traits follow from the others, given by name; kernels may constrain them like any. `folder` is the
        package whose modules hold its kernels, imported at the first selection.
        """
        if name in self._operations:
            raise InvalidKernel(f"operation {name!r} is already declared")
        self._operations[name] = Operation(self, name, traits, derived or {}, folder)
        return self._operations[name]

    def operation(self, name: str) -> Operation:
        """The operation of this name. Raises UnknownOperation."""
        if name not in self._operations:
            known = ", ".join(sorted(self._operations)) or "none"
            raise UnknownOperation(f"no operation is named {name!r}; known operations: {known}")
        return self._operations[name]

    def operations(self) -> tuple[str, ...]:
        """The names of all operations, sorted."""
        return tuple(sorted(self._operations))

    def register(
        self,
        operation: str,
        *,
        name: str,
        band: Band,
        platforms: tuple[Platform, ...] = (ANY_DEVICE,),
        dtypes: tuple[torch.dtype, ...] | None = None,
        traits: Mapping[str, Constraint] | None = None,
        only_by_name: str | None = None,
    ) -> Callable[[_Function], _Function]:
        """Decorator: add a function as a kernel of `operation`; the fields are those of `Kernel`.

        Raises UnknownOperation, InvalidKernel.
        """
        target = self.operation(operation)
        if isinstance(dtypes, torch.dtype):
            raise InvalidKernel(f"kernel {name!r} has dtypes={shown(dtypes)}; it must be a tuple, ({dtypes},)")

        def decorate(function: _Function) -> _Function:
            types = None if dtypes is None else frozenset(dtypes)
            target.add(Kernel(operation, name, function, band, platforms, types, dict(traits or {}), only_by_name))
            return function

        return decorate

    def explain(
        self,
        operation: str,
        *,
        device: torch.device | str | Capability,
        dtype: torch.dtype,
        kernel: str | None = None,
        **traits: Trait,
    ) -> Selection:
        """What would run this problem, and why; `print` it.

        A `Capability` stands for a device that this machine need not have. Raises like `Operation.select`, and
        TypeError if the traits are not exactly the operation's.
        """
        target = self.operation(operation)
        if set(traits) != set(target.traits):
            raise TypeError(f"{operation} has traits {', '.join(target.traits)}; got {', '.join(traits) or 'none'}")
        capability = device if isinstance(device, Capability) else capability_of(torch.device(device))
        values = tuple(traits[name] for name in target.traits)
        return target.judge(Problem(operation, capability, dtype, target.named(values)), kernel)

    def load_plugins(self) -> None:
        """Import third parties' kernels, once."""
        with self.loading:
            if self._group is not None:
                group, self._group = self._group, None
                self.unavailable_plugins = import_plugins(group)


REGISTRY = Registry(entry_point_group="tokenspeed.kernels")
"""The registry that the public operations use."""

register = REGISTRY.register
explain = REGISTRY.explain
