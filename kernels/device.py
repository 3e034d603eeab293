"""What a device can do, and which devices a kernel is written for."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Capability:
    """What the registry knows about a device.

    `vendor` is the device type of torch ("cpu", "cuda", "xpu", ...), except that a ROCm build's "cuda" is "rocm".
    `arch` is 10 * major + minor of the compute capability for "cuda" (90 for an H100) and 0 elsewhere.
    """

    vendor: str
    arch: int = 0

    def __str__(self) -> str:
        return f"cuda sm_{self.arch}" if self.vendor == "cuda" else self.vendor


@dataclass(frozen=True, slots=True)
class Platform:
    """Devices that a kernel runs on: one vendor ("any" for all) and, for "cuda", a range of compute capabilities.

    `min_arch` and `max_arch` are inclusive and written like `Capability.arch`; `max_arch=None` is open-ended.
    """

    vendor: str
    min_arch: int = 0
    max_arch: int | None = None

    def accepts(self, capability: Capability) -> bool:
        """Whether a device of this capability is among them."""
        if self.vendor == "any":
            return True
        above_min = capability.arch >= self.min_arch
        below_max = self.max_arch is None or capability.arch <= self.max_arch
        return capability.vendor == self.vendor and above_min and below_max

    def __str__(self) -> str:
        if self.vendor != "cuda":
            return self.vendor
        if self.max_arch is None:
            return f"cuda sm_{self.min_arch} or newer"
        if self.max_arch == self.min_arch:
            return f"cuda sm_{self.min_arch}"
        return f"cuda sm_{self.min_arch} to sm_{self.max_arch}"


ANY_DEVICE = Platform("any")
"""Every device that torch runs on."""


def capability_of(device: torch.device) -> Capability:
    """The capability of a device. A "cuda" device without an index means the current one."""
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return _capability_of(device)


@functools.cache
def _capability_of(device: torch.device) -> Capability:
    if device.type != "cuda":
        return Capability(device.type)
    if torch.version.hip is not None:
        return Capability("rocm")
    major, minor = torch.cuda.get_device_capability(device)
    return Capability("cuda", 10 * major + minor)
