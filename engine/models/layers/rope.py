"""Rotary position embedding (arXiv:2104.09864) and its extensions to longer contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..fields import Fields
from ..model import StepInputs


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Angles of the halves layout: dimension i turns with dimension i + dim / 2."""

    theta: float
    dim: int
    divisors: tuple[float, ...] | None = None
    """[dim / 2] what each frequency is divided by to reach longer contexts; None = 1."""
    attention_factor: float = 1.0
    """Factor of cosines and sines (YaRN)."""

    def frequencies(self) -> list[float]:
        """[dim / 2] radians per position."""
        plain = [self.theta ** (-2 * i / self.dim) for i in range(self.dim // 2)]
        if self.divisors is None:
            return plain
        return [f / d for f, d in zip(plain, self.divisors, strict=True)]


def read_rope(fields: Fields, dim: int) -> RopeConfig:
    """The rope of a config.json, over `dim` values. Raises UnsupportedModel naming the field."""
    # Older files keep rope_theta beside rope_scaling; newer ones put both into rope_parameters.
    scaling = fields.section("rope_parameters", "rope_scaling")
    theta = scaling.number("rope_theta", fields.number("rope_theta", 10000.0))
    kind = scaling.raw.get("rope_type") or scaling.raw.get("type") or "default"
    plain = RopeConfig(theta, dim)
    match kind:
        case "default":
            return plain
        case "linear":
            return RopeConfig(theta, dim, (scaling.number("factor"),) * (dim // 2))
        case "llama3":
            return RopeConfig(theta, dim, _llama3_divisors(plain, scaling))
        case "yarn":
            return _yarn(plain, scaling, fields.integer("max_position_embeddings"))
        case "divisors":  # as a GGUF file gives them
            divisors = scaling.raw.get("divisors", ())
            if len(divisors) != dim // 2 or not all(math.isfinite(d) and d > 0 for d in divisors):
                raise scaling.error("divisors", divisors, f"give {dim // 2} finite numbers above 0")
            return RopeConfig(theta, dim, tuple(divisors))
    raise scaling.error("rope_type", kind, "only default, linear, llama3 and yarn are implemented")


def _llama3_divisors(plain: RopeConfig, scaling: Fields) -> tuple[float, ...]:
    """Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    context = scaling.integer("original_max_position_embeddings")
    if high <= low:
        raise scaling.error("high_freq_factor", high, f"give more than low_freq_factor={low}")
    divisors = []
    for frequency in plain.frequencies():
        turns = context * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / factor + kept))
    return tuple(divisors)


def yarn_scale(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies attention by for a context that is `factor` times as long."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn(plain: RopeConfig, scaling: Fields, context: int) -> RopeConfig:
    """YaRN (arXiv:2309.00071): dimensions that turn often are kept, those that turn seldom are stretched."""
    original = scaling.integer("original_max_position_embeddings", context)
    factor = scaling.number("factor", context / original)
    fast, slow = scaling.number("beta_fast", 32.0), scaling.number("beta_slow", 1.0)
    dim, theta = plain.dim, plain.theta
    if theta <= 1:
        raise scaling.error("rope_theta", theta, "give more than 1")

    def dimension(turns: float) -> float:
        """Where a dimension makes so many turns over the original context."""
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if scaling.flag("truncate", True):
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, dim - 1.0)
    width = high - low or 0.001
    divisors = []
    for index in range(dim // 2):
        stretched = min(max((index - low) / width, 0.0), 1.0)
        divisors.append(1 / (stretched / factor + (1 - stretched)))
    attention = scaling.raw.get("attention_factor")
    if attention is None:
        mscale, all_dim = scaling.raw.get("mscale"), scaling.raw.get("mscale_all_dim")
        if mscale and all_dim:
            attention = yarn_scale(factor, scaling.number("mscale")) / yarn_scale(
                factor, scaling.number("mscale_all_dim")
            )
        else:
            attention = yarn_scale(factor)
    else:
        attention = scaling.number("attention_factor")
    return RopeConfig(theta, dim, tuple(divisors), attention)


class Rotary:
    """Cosines and sines of positions. They are computed for each step: a table would take memory for every position."""

    def __init__(self, rope: RopeConfig, device: torch.device) -> None:
        self.dim = rope.dim
        self._frequencies = torch.tensor(rope.frequencies(), dtype=torch.float32, device=device)
        self._factor = rope.attention_factor

    def at(self, step: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the step's tokens, float32 [tokens, dim / 2]; computed once for all layers."""
        return step.once(("rotary", id(self)), lambda: self._compute(step.positions))

    def _compute(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.outer(positions.float(), self._frequencies)
        if self._factor == 1.0:
            return angles.cos(), angles.sin()
        return angles.cos() * self._factor, angles.sin() * self._factor
