"""The usual modules of decoders, declared: what model files put together.

Names of weights are those of Hugging Face checkpoints. `prefix` is where the module lies, "model.layers.3.self_attn".
"""

from dataclasses import dataclass, replace

from .contract import (
    Cache,
    Module,
    Value,
    add,
    attend,
    embed,
    experts,
    linear,
    pointwise,
    rows,
    scaled,
    whole_row,
)
from .mesh import DENSE, EXPERT, EXPERT_TENSOR, EXPERTS, TENSOR, VOCABULARY
from .placements import Axes, Column, Experts, Heads, Once, Placement, Replicated, Row, Vocab, Weight


def embedding(vocabulary: int, hidden: int, name: str = "model.embed_tokens.weight") -> Module:
    """Token embedding; kind "embed"."""
    return Module("embed", "embed", embed(Weight(name, (vocabulary, hidden), Vocab(VOCABULARY))))


def lm_head(vocabulary: int, hidden: int, name: str = "lm_head.weight") -> Module:
    """Output head; kind "head". Tied to the embedding: give its name."""
    return Module("head", "head", linear(rows(hidden), Weight(name, (vocabulary, hidden), Column(VOCABULARY))))


def projection(x: Value, name: str, out: int, placement: Placement, *, bias: bool = False) -> Value:
    """x @ `name`.weight.T, and `name`.bias. Beside heads or columns the bias is split likewise."""
    weight = Weight(f"{name}.weight", (out, x.width), placement)
    return linear(x, weight, Weight(f"{name}.bias", (out,), placement) if bias else None)


@dataclass(frozen=True, slots=True)
class GroupedQuery:
    """Grouped-query attention; kind "attention".

    `bias`: of queries, keys and values; `output_bias`: of the output; `head_norms`: RMS norms of each query and key
    head (Qwen3); `sinks`: a learned logit for each query head (gpt-oss).
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    output_bias: bool = False
    head_norms: bool = False
    sinks: bool = False

    def module(self, prefix: str, kind: str = "attention") -> Module:
        """The declaration at `prefix`."""
        x, dim = rows(self.hidden), self.head_dim
        split = Heads(TENSOR, self.heads, self.kv_heads)
        kv = replace(split, kv=True)
        q = projection(x, f"{prefix}.q_proj", self.heads * dim, split, bias=self.bias)
        k = projection(x, f"{prefix}.k_proj", self.kv_heads * dim, kv, bias=self.bias)
        v = projection(x, f"{prefix}.v_proj", self.kv_heads * dim, kv, bias=self.bias)
        norms: tuple[tuple[Weight, ...], ...] = ((), ())
        if self.head_norms:
            norms = tuple((Weight(f"{prefix}.{name}_norm.weight", (dim,)),) for name in "qk")
        q = pointwise("norm and rope of queries", q, weights=norms[0])
        k = pointwise("norm and rope of keys", k, weights=norms[1])
        sinks = (Weight(f"{prefix}.sinks", (self.heads,), split),) if self.sinks else ()
        o = Weight(f"{prefix}.o_proj.weight", (self.hidden, self.heads * dim), replace(split, dim=1))
        bias = Weight(f"{prefix}.o_proj.bias", (self.hidden,), Once(TENSOR)) if self.output_bias else None
        output = linear(attend(q, k, v, split, weights=sinks), o, bias)
        return Module(prefix, kind, output, Cache(2 * dim, self.kv_heads, kv))


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (arXiv 2405.04434); kind "mla". `q_rank` None: one matrix makes the queries."""

    hidden: int
    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int

    def module(self, prefix: str, kind: str = "mla") -> Module:
        """The declaration at `prefix`. The latent and the rotary part of the keys are the same on every rank."""
        x, heads = rows(self.hidden), self.heads
        split = Heads(TENSOR, heads, heads)
        width = heads * (self.nope_dim + self.rope_dim)
        if self.q_rank is None:
            q = projection(x, f"{prefix}.q_proj", width, split)
        else:
            low = projection(x, f"{prefix}.q_a_proj", self.q_rank, Replicated())
            norm = Weight(f"{prefix}.q_a_layernorm.weight", (self.q_rank,))
            normed = whole_row("norm of the query latent", low, width=self.q_rank, weights=(norm,))
            q = projection(normed, f"{prefix}.q_b_proj", width, split)
        both = projection(x, f"{prefix}.kv_a_proj_with_mqa", self.kv_rank + self.rope_dim, Replicated())
        norm = Weight(f"{prefix}.kv_a_layernorm.weight", (self.kv_rank,))
        latent = whole_row("norm of the latent", both, width=self.kv_rank, weights=(norm,))
        rotary = whole_row("rope of the shared key", both, width=self.rope_dim)
        kv = projection(latent, f"{prefix}.kv_b_proj", heads * (self.nope_dim + self.v_dim), split)
        k = pointwise("keys", kv, width=heads * self.nope_dim)
        v = pointwise("values", kv, width=heads * self.v_dim)
        o = Weight(f"{prefix}.o_proj.weight", (self.hidden, heads * self.v_dim), replace(split, dim=1))
        output = linear(attend(pointwise("rope of queries", q), k, v, split, rotary), o)
        return Module(prefix, kind, output, Cache(self.kv_rank + self.rope_dim))


def gated(x: Value, prefix: str, width: int, over: str | Axes) -> Value:
    """A gated feed-forward layer, down(silu(gate(x)) * up(x)), whose width is split."""
    gate = projection(x, f"{prefix}.gate_proj", width, Column(over))
    up = projection(x, f"{prefix}.up_proj", width, Column(over))
    return projection(pointwise("silu_mul", gate, up), f"{prefix}.down_proj", x.width, Row(over))


def gated_mlp(prefix: str, hidden: int, width: int) -> Module:
    """A dense feed-forward layer; kind "mlp"."""
    return Module(prefix, "mlp", gated(rows(hidden), prefix, width, DENSE))


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """Routed experts and, if `shared_width` is not 0, a feed-forward layer for every token; kind "moe".

    `correction`: a bias by which experts are chosen (DeepSeek-V3); `shared_gate`: the shared layer's output is
    multiplied by one learned number a token (Qwen2-MoE). The routed scaling factor belongs to the router's weights.
    """

    hidden: int
    experts: int
    width: int
    shared_width: int = 0
    correction: bool = False
    shared_gate: bool = False
    shared_name: str = "shared_experts"

    def module(self, prefix: str, kind: str = "moe") -> Module:
        """The declaration at `prefix`. Both kinds of experts owe their sums over the same ranks and are added first."""
        x, count = rows(self.hidden), self.experts
        router = [Weight(f"{prefix}.gate.weight", (count, self.hidden))]
        if self.correction:
            router.append(Weight(f"{prefix}.gate.e_score_correction_bias", (count,)))
        routing = whole_row("routing", x, width=count, weights=tuple(router))
        name = f"{prefix}.experts.{{expert}}"
        up = tuple(
            Weight(f"{name}.{part}_proj.weight", (count, self.width, self.hidden), Experts(EXPERT, EXPERT_TENSOR))
            for part in ("gate", "up")
        )
        down = Weight(
            f"{name}.down_proj.weight", (count, self.hidden, self.width), Experts(EXPERT, EXPERT_TENSOR, inner_dim=2)
        )
        output = experts(x, routing, up, down)
        if self.shared_width:
            shared = gated(x, f"{prefix}.{self.shared_name}", self.shared_width, EXPERTS)
            if self.shared_gate:
                gate = Weight(f"{prefix}.shared_expert_gate.weight", (1, self.hidden))
                shared = scaled(shared, whole_row("gate of the shared expert", x, width=1, weights=(gate,)))
            output = add(output, shared)
        return Module(prefix, kind, output)
