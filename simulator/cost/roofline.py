"""How long a step takes on the device: an analytical roofline (Williams et al., CACM 2009).

This is an estimate from datasheets and model shapes, not a measurement. Each stage of a step takes the longer of its
compute time and its memory time; the stages follow one another. The factors below are the only fitted numbers: they
were chosen so that the estimate is right on average over published measurements of whole engines (docs/simulator.md).
"""

from dataclasses import asdict, dataclass
from math import exp, log1p
from typing import Any, Final

from ..hardware.deployment import Deployment
from ..hardware.model_shapes import GroupedQueryAttention, LatentAttention
from ..hardware.precision import WEIGHT_BYTES
from .protocol import Rows, StepCost, StepRows

MATMUL_EFFICIENCY: Final = 0.70
"""Share of the dense tensor peak that large matrix products reach. Typical: 0.5 (fp4, small experts) to 0.8 (bf16)."""
ATTENTION_EFFICIENCY: Final = 0.55
"""Share of the bf16 tensor peak that attention kernels reach. Typical: 0.4 (short chunks) to 0.75 (long prefill)."""
MEMORY_EFFICIENCY: Final = 0.85
"""Share of HBM bandwidth that weight and KV reads reach. Typical: 0.6 (small matrices) to 0.93 (long decode)."""
EXPERT_MEMORY_EFFICIENCY: Final = 0.65
"""The same for routed experts, which are many small matrices with few tokens each. Typical: 0.4 to 0.75."""
NVLINK_EFFICIENCY: Final = 0.75
"""Share of one-way NVLink bandwidth that a large all-reduce reaches. Typical: 0.7 to 0.85."""
ALL_REDUCE_LATENCY_S: Final = 10e-6
"""Time of a small all-reduce inside one NVLink domain, seconds. Typical: 4 to 15 us."""
LAYER_OVERHEAD_S: Final = 25e-6
"""Time per layer in which neither compute nor memory is busy: kernel starts and tails inside a CUDA graph, norms.
Typical: 10 to 40 us."""
EXPERT_LAYER_OVERHEAD_S: Final = 45e-6
"""The same for what routed experts add to a layer: routing, sorting tokens, combining. Typical: 20 to 70 us."""
STEP_OVERHEAD_S: Final = 500e-6
"""Time per step outside the layers: graph launch, sampling, copy of the results. Typical: 0.1 to 1 ms."""
HOST_STEP_S: Final = 500e-6
"""Host time to plan and prepare a step. Hidden behind the device when steps overlap. Typical: 0.2 to 3 ms."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """Roofline of one deployment. Make it with `roofline`; call `step_ns` for each step (about 2 us)."""

    dense_flops_per_token: float
    dense_bytes: float
    experts: int
    expert_miss_log: float
    expert_flops_per_token: float
    expert_bytes: float
    expert_bandwidth: float
    head_flops_per_row: float
    head_bytes: float
    matmul_flops: float
    head_flops: float
    attention_flops: float
    decode_flops_per_pair: float
    prefill_flops_per_pair: float
    expand_flops_per_context: float
    kv_bytes_per_token: float
    bandwidth: float
    all_reduce_latency_s: float
    all_reduce_s_per_token: float
    overhead_s: float

    def step_ns(self, step: StepRows, /) -> int:
        """Device time of one step, nanoseconds."""
        tokens = step.tokens
        bandwidth = self.bandwidth
        matmul_flops = self.matmul_flops
        seconds = self.overhead_s + self.all_reduce_latency_s + tokens * self.all_reduce_s_per_token
        compute = tokens * self.dense_flops_per_token / matmul_flops
        memory = self.dense_bytes / bandwidth
        seconds += compute if compute > memory else memory
        if self.experts:
            compute = tokens * self.expert_flops_per_token / matmul_flops
            memory = (
                self.experts * (1.0 - exp(tokens * self.expert_miss_log)) * self.expert_bytes / self.expert_bandwidth
            )
            seconds += compute if compute > memory else memory
        compute = step.rows * self.head_flops_per_row / self.head_flops
        memory = self.head_bytes / bandwidth
        seconds += compute if compute > memory else memory
        decode_context = step.context_tokens
        if tokens != step.rows:
            flops, context = self._chunks(step)
            decode_context -= context
            compute = flops / self.attention_flops
            memory = context * self.kv_bytes_per_token / bandwidth
            seconds += compute if compute > memory else memory
        compute = decode_context * self.decode_flops_per_pair / self.attention_flops
        memory = decode_context * self.kv_bytes_per_token / bandwidth
        seconds += compute if compute > memory else memory
        return int(seconds * 1e9)

    def _chunks(self, step: StepRows) -> tuple[float, int]:
        """(FLOP of attention, context tokens) of the rows with several tokens, each in the cheaper of its two ways."""
        flops, contexts = 0.0, 0
        for start, tokens in zip(step.start.tolist(), step.num_tokens.tolist(), strict=True):
            if tokens > 1:
                context = start + tokens
                pairs = tokens * start + tokens * (tokens + 1) // 2
                expanded = pairs * self.prefill_flops_per_pair + context * self.expand_flops_per_context
                absorbed = pairs * self.decode_flops_per_pair
                flops += expanded if expanded < absorbed else absorbed
                contexts += context
        return flops, contexts

    def step_parts(self, step: StepRows, /) -> dict[str, float]:
        """Where a step's time goes: nanoseconds by part, each with what bounds it."""
        parts: dict[str, float] = {}

        def add(name: str, compute: float, memory: float) -> None:
            bound = "compute" if compute > memory else "memory"
            if compute > 0 or memory > 0:
                parts[f"{name} ({bound})"] = 1e9 * max(compute, memory)

        tokens = step.tokens
        add(
            "dense matrices", tokens * self.dense_flops_per_token / self.matmul_flops, self.dense_bytes / self.bandwidth
        )
        if self.experts:
            hit = self.experts * (1.0 - exp(tokens * self.expert_miss_log))
            compute = tokens * self.expert_flops_per_token / self.matmul_flops
            add("routed experts", compute, hit * self.expert_bytes / self.expert_bandwidth)
        add("output head", step.rows * self.head_flops_per_row / self.head_flops, self.head_bytes / self.bandwidth)
        flops, context = self._chunks(step)
        add("attention of prompts", flops / self.attention_flops, context * self.kv_bytes_per_token / self.bandwidth)
        context = step.context_tokens - context
        compute = context * self.decode_flops_per_pair / self.attention_flops
        add("attention of decoding", compute, context * self.kv_bytes_per_token / self.bandwidth)
        if self.all_reduce_latency_s:
            parts["all-reduce"] = 1e9 * (self.all_reduce_latency_s + tokens * self.all_reduce_s_per_token)
        parts["fixed overheads"] = 1e9 * self.overhead_s
        return parts

    def describe(self) -> dict[str, Any]:
        """What a report tells about the model."""
        return {
            "kind": "roofline",
            "source": "datasheets and model shapes; factors fitted (docs/simulator.md)",
            **asdict(self),
        }


@dataclass(frozen=True, slots=True)
class PrefillFigures:
    """What computing prompts costs, in the two numbers that the scheduler weighs decisions by."""

    tokens_per_s: float
    """At the start of a text."""
    doubling_tokens: float
    """Context at which a token costs twice as much; 0 if context costs nothing."""


def prefill_figures(cost: StepCost, chunk: int) -> PrefillFigures:
    """The figures of prompts that are computed in chunks of `chunk` tokens, one in each step."""
    far = 65_536
    first = cost.step_ns(Rows.of(prefill=[(0, chunk)]))
    later = cost.step_ns(Rows.of(prefill=[(far, chunk)]))
    tokens_per_s = chunk * 1e9 / max(first, 1)
    return PrefillFigures(tokens_per_s, far * first / (later - first) if later > first else 0.0)


def roofline(deployment: Deployment) -> Roofline:
    """The cost model of `deployment`."""
    model, gpu, tp = deployment.model, deployment.gpu, deployment.tp
    weight_bytes = WEIGHT_BYTES[deployment.weights]
    layers, attention = model.layers, model.attention
    if isinstance(attention, GroupedQueryAttention):
        # Queries times keys and weights times values: 2 FLOP per multiply-add each.
        decode_pair = prefill_pair = 4.0 * attention.heads * attention.head_dim
        expand = 0.0
    else:
        decode_pair, prefill_pair, expand = _latent_flops(attention)
    moe = model.moe
    ring = 2.0 * (tp - 1) / tp
    all_reduces = 2 * layers if tp > 1 else 0
    return Roofline(
        dense_flops_per_token=2.0 * model.always_parameters / tp,
        dense_bytes=model.always_parameters * weight_bytes / tp,
        experts=0 if moe is None else moe.experts,
        expert_miss_log=0.0 if moe is None else log1p(-moe.top_k / moe.experts),
        expert_flops_per_token=0.0
        if moe is None
        else 2.0 * moe.top_k * model.expert_parameters * model.moe_layers / tp,
        expert_bytes=model.expert_parameters * model.moe_layers * weight_bytes / tp,
        expert_bandwidth=gpu.memory_bandwidth * EXPERT_MEMORY_EFFICIENCY,
        head_flops_per_row=2.0 * model.vocabulary * model.hidden / tp,
        head_bytes=2.0 * model.vocabulary * model.hidden / tp,
        matmul_flops=gpu.matmul_flops(deployment.weights) * MATMUL_EFFICIENCY,
        head_flops=gpu.bf16_flops * MATMUL_EFFICIENCY,
        attention_flops=gpu.bf16_flops * ATTENTION_EFFICIENCY,
        decode_flops_per_pair=decode_pair * layers / tp,
        prefill_flops_per_pair=prefill_pair * layers / tp,
        expand_flops_per_context=expand * layers / tp,
        kv_bytes_per_token=deployment.kv_bytes_per_token,
        bandwidth=gpu.memory_bandwidth * MEMORY_EFFICIENCY,
        all_reduce_latency_s=all_reduces * ALL_REDUCE_LATENCY_S,
        all_reduce_s_per_token=all_reduces * ring * model.hidden * 2 / (gpu.nvlink_bandwidth * NVLINK_EFFICIENCY),
        overhead_s=STEP_OVERHEAD_S + layers * LAYER_OVERHEAD_S + model.moe_layers * EXPERT_LAYER_OVERHEAD_S,
    )


def _latent_flops(attention: LatentAttention) -> tuple[float, float, float]:
    """FLOP of one layer: (per pair in latent space, per pair on expanded heads, per context token to expand them).

    Decode works in latent space (absorbed weights); prefill may expand keys and values first. A step takes the cheaper.
    """
    heads = attention.heads
    absorbed = 2.0 * heads * (attention.kv_rank + attention.rope_dim) + 2.0 * heads * attention.kv_rank
    expanded = 2.0 * heads * (attention.nope_dim + attention.rope_dim) + 2.0 * heads * attention.v_dim
    expand = 2.0 * attention.kv_rank * heads * (attention.nope_dim + attention.v_dim)
    return absorbed, expanded, expand
