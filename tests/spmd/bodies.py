"""Plain code for the kinds of modules that models.py declares, in float64 and without a KV cache."""

import math
import zlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tokenspeed.engine.spmd.contract import Module, Op
from tokenspeed.engine.spmd.mesh import Mesh
from tokenspeed.engine.spmd.placements import Weight
from tokenspeed.engine.spmd.plan import Plan, StepRows
from tokenspeed.engine.spmd.runtime.collectives import Communicator
from tokenspeed.engine.spmd.runtime.local_weights import LocalWeights
from tokenspeed.engine.spmd.runtime.stack import Body, Norm, Stack


class RandomWeights:
    """The same random tensor for a name wherever it is read."""

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        ranges: tuple[range, ...] | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        whole = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[-1])
        part = whole[tuple(slice(r.start, r.stop) for r in ranges)] if ranges else whole
        return part.to(device=device, dtype=dtype)


class Code:
    """Makes bodies and norms on a rank."""

    def __init__(self, mesh: Mesh, rank: int, device: str = "cpu") -> None:
        self.local = LocalWeights(RandomWeights(), mesh, rank, dtype=torch.float64, device=device)

    def body(self, module: Module) -> Body:
        weights = {name_of(weight): self.local.read(weight) for weight in module.weights}
        make: Callable[[Module, dict[str, torch.Tensor]], Body] = getattr(self, module.kind)
        return make(module, weights)

    def norm(self, weight: Weight) -> Norm:
        w = self.local.read(weight)

        def norm(hidden: torch.Tensor, stream: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
            stream = hidden if stream is None else stream + hidden
            return rms(stream, w), stream

        return norm

    def embed(self, module: Module, weights: dict[str, torch.Tensor]) -> Body:
        (weight,) = module.weights
        held = weight.slices(self.local.mesh, self.local.rank)[0]
        table = next(iter(weights.values()))

        def run(ids: torch.Tensor, step: Any) -> torch.Tensor:
            here = (ids >= held.start) & (ids < held.stop)
            return table[(ids - held.start).clamp(0, len(held) - 1)] * here[:, None]

        return run

    def head(self, module: Module, weights: dict[str, torch.Tensor]) -> Body:
        (w,) = weights.values()
        return lambda x, step: x @ w.T

    def attention(self, module: Module, weights: dict[str, torch.Tensor]) -> Body:
        w = weights

        def run(x: torch.Tensor, step: Any) -> torch.Tensor:
            zero = x.new_zeros(())
            q, k, v = (
                (x @ w[f"{n}_proj.weight"].T + w.get(f"{n}_proj.bias", zero)).unflatten(1, (-1, 4)) for n in "qkv"
            )
            if "q_norm.weight" in w:
                q, k = rms(q, w["q_norm.weight"]), rms(k, w["k_norm.weight"])
            out = attend(q, k, v, w.get("sinks"))
            return out.flatten(1) @ w["o_proj.weight"].T + w.get("o_proj.bias", zero)

        return run

    def mla(self, module: Module, weights: dict[str, torch.Tensor]) -> Body:
        w = weights

        def run(x: torch.Tensor, step: Any) -> torch.Tensor:
            q = (rms(x @ w["q_a_proj.weight"].T, w["q_a_layernorm.weight"]) @ w["q_b_proj.weight"].T).unflatten(
                1, (-1, 6)
            )
            latent, rotary = (x @ w["kv_a_proj_with_mqa.weight"].T).split([8, 2], 1)
            kv = (rms(latent, w["kv_a_layernorm.weight"]) @ w["kv_b_proj.weight"].T).unflatten(1, (-1, 10))
            k = torch.cat([kv[..., :4], rotary[:, None].expand(-1, kv.shape[1], -1)], -1)
            return attend(q, k, kv[..., 4:], None).flatten(1) @ w["o_proj.weight"].T

        return run

    def mlp(self, module: Module, weights: dict[str, torch.Tensor]) -> Body:
        return lambda x, step: feed_forward(x, *weights.values())

    def moe(self, module: Module, weights: dict[str, torch.Tensor]) -> Body:
        w = weights
        node = next(node for node in module.nodes if node.op is Op.EXPERTS)
        first = node.weights[0].slices(self.local.mesh, self.local.rank)[0].start

        def run(x: torch.Tensor, step: Any) -> torch.Tensor:
            scores = (x @ w["gate.weight"].T).softmax(-1)
            chosen = (scores + w.get("gate.e_score_correction_bias", x.new_zeros(()))).topk(2).indices
            routing = torch.zeros_like(scores).scatter(1, chosen, scores.gather(1, chosen))
            gate, up, down = (w[f"experts.{{expert}}.{n}_proj.weight"] for n in ("gate", "up", "down"))
            out = sum(routing[:, first + e, None] * feed_forward(x, gate[e], up[e], down[e]) for e in range(len(gate)))
            assert isinstance(out, torch.Tensor)
            if "shared_expert_gate.weight" in w:
                shared = feed_forward(x, *(w[f"shared_experts.{n}_proj.weight"] for n in ("gate", "up", "down")))
                out = out + (x @ w["shared_expert_gate.weight"].T).sigmoid() * shared
            return out

        return run


def name_of(weight: Weight) -> str:
    """The part of the name behind the module's."""
    return weight.name.split("self_attn.")[-1].split("mlp.")[-1]


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def feed_forward(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Causal attention over all rows [rows, heads, dim], as one request; `sinks` [heads]."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, len(q), 1)], -1)
    weights = scores.softmax(-1)[..., : len(q)]
    return torch.einsum("hij,jhd->ihd", weights, v)


def run_rank(
    plan: Plan, rank: int, ids: list[torch.Tensor], rows: StepRows, communicator: Communicator, device: str = "cpu"
) -> torch.Tensor:
    """The logits that a rank ends with."""
    code = Code(plan.mesh, rank, device)
    stack = Stack(plan, rank, body=code.body, norm=code.norm, communicator=communicator)
    return stack.logits(stack.select(stack.forward(ids, None, rows), rows), None, rows)
