"""Turn the choices of a study into a workload, a deployment and a cluster, and tell every one of them in words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...scheduler import CHECKED, POLICIES, SPEC_HASH
from ..cost import roofline as cost_model
from ..cost.roofline import prefill_figures, roofline
from ..errors import ConfigurationError, WorkloadError
from ..hardware import deployment
from ..hardware.deployment import Deployment
from ..hardware.gpus import find_gpu
from ..hardware.model_shapes import find_model
from ..hardware.precision import Precision
from ..traces import read_trace
from ..workload.generator import generate
from ..workload.options import WorkloadOptions
from ..workload.presets import PRESETS
from ..workload.workload import Workload
from ..world.simulation import Cluster, simulate
from .metrics import call_times, measure
from .study import Study

MAX_HOST_BLOCKS: Final = 2**31 - 1
"""What the scheduler can name."""

EFFICIENCIES: Final = (
    ("Matrix products", f"{cost_model.MATMUL_EFFICIENCY:.0%} of the dense tensor peak"),
    ("Attention", f"{cost_model.ATTENTION_EFFICIENCY:.0%} of the bf16 tensor peak"),
    ("Memory reads", f"{cost_model.MEMORY_EFFICIENCY:.0%} of HBM bandwidth"),
    ("Expert weight reads", f"{cost_model.EXPERT_MEMORY_EFFICIENCY:.0%} of HBM bandwidth"),
    ("NVLink", f"{cost_model.NVLINK_EFFICIENCY:.0%} of one-way bandwidth"),
    ("All-reduce latency", f"{cost_model.ALL_REDUCE_LATENCY_S * 1e6:g} us, twice a layer if tp > 1"),
    ("Overhead per layer", f"{cost_model.LAYER_OVERHEAD_S * 1e6:g} us"),
    ("Overhead per layer with experts", f"{cost_model.EXPERT_LAYER_OVERHEAD_S * 1e6:g} us more"),
    ("Overhead per step", f"{cost_model.STEP_OVERHEAD_S * 1e6:g} us"),
    ("Host time per step", f"{cost_model.HOST_STEP_S * 1e6:g} us, hidden while the device is busy if steps overlap"),
    ("Host link", f"{deployment.PCIE_EFFICIENCY:.0%} of one-way PCIe bandwidth"),
    ("Usable GPU memory", f"{deployment.USABLE_MEMORY:.0%}"),
)
"""The cost model's factors as text, by title."""


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a user may choose. The fields are named like the options of `tokenspeed simulate`."""

    workload: str
    """A trace file or the name of a preset."""
    model: str = "kimi-k2"
    gpu: str = "b200"
    tp: int = 4
    replicas: int = 1
    seed: int = 0
    limit: int | None = None
    """Take only the first so many sessions or requests."""
    concurrency: int | None = None
    """Sessions alive at once in a closed loop; None for the workload's default."""
    think_cap: float = 60.0
    """Longest think or tool time in a closed loop, seconds."""
    block_size: int = 64
    max_step_tokens: int = 8192
    max_running: int = 256
    overlap_depth: int = 1
    num_blocks: int | None = None
    """KV blocks of each replica; None: what fits beside the weights."""
    host_gib: float = 0.0
    """Host memory for KV blocks of each replica, GiB; 0: no host tier."""
    host_blocks: int | None = None
    """The same in blocks."""
    policy: str = "default"
    weights: str = "auto"
    """bf16, fp8 or fp4; auto: the first of these that fits."""
    kv_dtype: str = "auto"
    """bf16 or fp8; auto: fp8 unless the weights are bf16."""


def load_workload(settings: StudySettings) -> Workload:
    """The workload of a study. Raises WorkloadError if there is no such file or preset or it cannot be read."""
    for field in ("limit", "concurrency"):
        value = getattr(settings, field)
        if value is not None and value < 1:
            raise ConfigurationError(f"{field} is {value}; it must be at least 1")
    if not 0 <= settings.think_cap <= 1e7:
        raise ConfigurationError(f"think_cap is {settings.think_cap}; it must be between 0 and 10,000,000 seconds")
    if settings.block_size < 1:
        raise ConfigurationError(f"block_size is {settings.block_size}; it must be at least 1")
    think_cap_ns = round(settings.think_cap * 1e9)
    options = WorkloadOptions(settings.block_size, settings.limit, think_cap_ns, settings.concurrency)
    profile = PRESETS.get(settings.workload)
    if profile is not None:
        return generate(profile, settings.seed, options)
    path = Path(settings.workload)
    if not path.exists():
        raise WorkloadError(
            f"workload is {settings.workload!r}, which is neither a file nor a preset; presets: {', '.join(PRESETS)}"
        )
    return read_trace(path, options)


def place_model(settings: StudySettings) -> Deployment:
    """The deployment of a study. Raises ConfigurationError if the model cannot be placed."""
    model, gpu = find_model(settings.model), find_gpu(settings.gpu)
    choices = list(Precision) if settings.weights == "auto" else [Precision.parse(settings.weights, "weights")]
    for weights in choices:
        kv = Precision.FP8 if weights is not Precision.BF16 else Precision.BF16
        if settings.kv_dtype != "auto":
            kv = Precision.parse(settings.kv_dtype, "kv_dtype")
        placed = Deployment(model, gpu, settings.tp, weights, kv)
        try:
            placed.kv_blocks(settings.block_size)
        except ConfigurationError:
            if weights is choices[-1]:
                raise
        else:
            break
    return placed


def run_study(
    settings: StudySettings,
    workload: Workload,
    progress: Callable[[int], None] | None = None,
    record_trace: Path | None = None,
) -> Study:
    """Simulate `workload` under `settings`. `progress` is called with the number of calls ended so far.

    `record_trace`: where the schedulers' transitions are written, see `trace_paths`.
    """
    placed = place_model(settings)
    if settings.replicas < 1:
        raise ConfigurationError(f"replicas is {settings.replicas}; it must be at least 1")
    if workload.block_size != settings.block_size:
        raise ConfigurationError(
            f"block_size is {settings.block_size} but the workload was loaded for {workload.block_size}; load it again"
        )
    blocks = placed.kv_blocks(settings.block_size) if settings.num_blocks is None else settings.num_blocks
    host_blocks = settings.host_blocks
    if host_blocks is None:
        host_blocks = placed.host_blocks(settings.host_gib, settings.block_size)
    if host_blocks > MAX_HOST_BLOCKS:
        raise ConfigurationError(f"host_blocks is {host_blocks}; it must be at most {MAX_HOST_BLOCKS:,}")
    if settings.policy not in POLICIES.split(", "):
        raise ConfigurationError(f"policy is {settings.policy!r}; known policies: {POLICIES}")
    cost = roofline(placed)
    cluster = Cluster(
        settings.replicas,
        cost,
        blocks,
        settings.max_running,
        settings.max_step_tokens,
        settings.overlap_depth,
        num_host_blocks=host_blocks,
        host_copy_tokens_per_s=placed.host_tokens_per_s,
        prefill=prefill_figures(cost, settings.max_step_tokens),
        policy=settings.policy,
    )
    recording = simulate(workload, cluster, progress, trace_paths(record_trace, settings.replicas))
    times = call_times(workload, recording)
    return Study(
        workload=workload,
        recording=recording,
        times=times,
        metrics=measure(workload, recording, times, settings.replicas, settings.replicas * settings.tp),
        replicas=settings.replicas,
        parameters=_parameters(settings, placed, blocks, host_blocks),
        scheduler={"Scheduler specification": SPEC_HASH, "Checked build": "yes" if CHECKED else "no"},
    )


def trace_paths(path: Path | None, replicas: int) -> list[Path]:
    """Where each replica records: `path` itself, or run-0.tstrace, run-1.tstrace, ... for run.tstrace; none if None."""
    if path is None or replicas == 1:
        return [] if path is None else [path]
    return [path.with_stem(f"{path.stem}-{index}") for index in range(replicas)]


def _parameters(settings: StudySettings, placed: Deployment, blocks: int, host_blocks: int) -> dict[str, str]:
    model, gpu = placed.model, placed.gpu
    replicas = f"{settings.replicas} replica{'s' if settings.replicas > 1 else ''}"
    peak = gpu.matmul_flops(placed.weights)
    return {
        "Model": model.name,
        "Parameters": f"{model.parameters / 1e9:.4g} billion, {model.active_parameters / 1e9:.3g} billion active",
        "GPUs": f"{settings.replicas * settings.tp} x {gpu.name} ({replicas}, tp {settings.tp})",
        "GPU datasheet": f"{gpu.memory_bytes / 1e9:g} GB at {gpu.memory_bandwidth / 1e12:g} TB/s, {peak / 1e12:,.0f} "
        f"TFLOP/s dense with {placed.weights.value} weights, NVLink {gpu.nvlink_bandwidth / 1e9:g} GB/s one way",
        "Weights": f"{placed.weights.value}, {placed.weight_bytes_per_gpu / 1e9:.1f} GB per GPU",
        "KV cache": f"{placed.kv.value}, {placed.kv_bytes_per_token / 1e3:.1f} kB per token and GPU",
        "KV blocks": f"{blocks:,} of {settings.block_size} tokens, {blocks * settings.block_size:,} tokens per replica",
        "Host tier": _host_tier(placed, host_blocks, settings.block_size),
        "Policy": settings.policy,
        "Routing": "a session stays on one replica, the least loaded when it starts",
        "Running calls at most": f"{settings.max_running:,} per replica",
        "Tokens per step at most": f"{settings.max_step_tokens:,}",
        "Overlap depth": f"{settings.overlap_depth} (steps in flight while the next is planned)",
        "Prefix cache": "on",
        "Seed": f"{settings.seed} (used by generated workloads only)",
        **dict(EFFICIENCIES),
    }


def _host_tier(placed: Deployment, blocks: int, block_size: int) -> str:
    if not blocks:
        return "off"
    gib = blocks * block_size * placed.kv_bytes_per_token * placed.tp / 2**30
    return (
        f"{blocks:,} blocks per replica ({gib:,.0f} GiB), {placed.gpu.pcie_bandwidth / 1e9:g} GB/s PCIe one way per "
        f"GPU, {placed.host_tokens_per_s:,.0f} tokens/s"
    )
