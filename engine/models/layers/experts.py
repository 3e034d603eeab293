"""Mixtures of experts: a router, the routed experts of this rank, and a layer for every token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ....kernels import moe_mlp, moe_route
from .feed_forward import GatedMlp
from .module import Parts, Step


@dataclass(frozen=True, slots=True)
class Routing:
    """How tokens choose their experts; see `kernels.moe_route`."""

    top_k: int
    scoring: str
    renormalize: bool
    scale: float = 1.0
    """The routed scaling factor. It is applied here and nowhere else."""
    groups: int = 1
    top_groups: int = 1
    float32: bool = True
    """Whether the router multiplies in float32, whatever the model's dtype."""
    router: str = "gate"
    shared: str = "shared_experts"


class MixtureOfExperts:
    """This rank's term: its part of the experts that each token chose, and of the shared layer."""

    def __init__(self, parts: Parts, routing: Routing) -> None:
        self._routing = routing
        self._router = parts.read(f"{routing.router}.weight", torch.float32 if routing.float32 else None)
        name = f"{routing.router}.e_score_correction_bias"
        self._correction = parts.read(name, torch.float32) if parts.has(name) else None
        self._held = parts.ranges("experts.{expert}.gate_proj.weight")[0]
        self._all = len(self._held) == parts.weight("experts.{expert}.gate_proj.weight").shape[0]
        self._gate_up, self._down = _experts(parts)
        self._shared = (
            GatedMlp(parts, f"{routing.shared}.") if parts.has(f"{routing.shared}.gate_proj.weight") else None
        )

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """[rows, hidden] to [rows, hidden]."""
        r = self._routing
        logits = F.linear(x.to(self._router.dtype), self._router)
        weights, experts = moe_route(
            logits,
            r.top_k,
            scoring=r.scoring,
            renormalize=r.renormalize,
            scale=r.scale,
            bias=self._correction,
            groups=r.groups,
            top_groups=r.top_groups,
        )
        if not self._all:
            local = experts - self._held.start
            experts = local.where((local >= 0) & (local < len(self._held)), -1)
        routed = moe_mlp(x, self._gate_up, self._down, weights, experts)
        return routed if self._shared is None else routed + self._shared(x, step)


def _experts(parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """Stacked weights: gate above up [experts, 2 * width, hidden], and down [experts, hidden, width]."""
    names = [f"experts.{{expert}}.{part}_proj.weight" for part in ("gate", "up")]
    count, width, hidden = (len(r) for r in parts.ranges(names[0]))
    gate_up = torch.empty(count, 2 * width, hidden, dtype=parts.dtype, device=parts.device)
    for place, name in enumerate(names):  # one after the other, so that they are never there twice
        gate_up[:, place * width : (place + 1) * width] = parts.read(name)
    return gate_up, parts.read("experts.{expert}.down_proj.weight")
