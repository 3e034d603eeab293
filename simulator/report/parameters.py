"""Every setting of a study in words, for reports."""

from typing import Final

from ..cost import roofline
from ..hardware import deployment
from ..hardware.deployment import Deployment
from ..policies import policy_name
from ..routing import DESCRIPTIONS, router_name
from ..study.settings import StudySettings
from ..study.study import Study
from ..timebase import NS_PER_S
from ..world.cluster import Cluster

EFFICIENCIES: Final = (
    ("Matrix products", f"{roofline.MATMUL_EFFICIENCY:.0%} of the dense tensor peak"),
    ("Attention", f"{roofline.ATTENTION_EFFICIENCY:.0%} of the bf16 tensor peak"),
    ("Memory reads", f"{roofline.MEMORY_EFFICIENCY:.0%} of HBM bandwidth"),
    ("Expert weight reads", f"{roofline.EXPERT_MEMORY_EFFICIENCY:.0%} of HBM bandwidth"),
    ("NVLink", f"{roofline.NVLINK_EFFICIENCY:.0%} of one-way bandwidth"),
    ("All-reduce latency", f"{roofline.ALL_REDUCE_LATENCY_S * 1e6:g} us, twice a layer if tp > 1"),
    ("Overhead per layer", f"{roofline.LAYER_OVERHEAD_S * 1e6:g} us"),
    ("Overhead per layer with experts", f"{roofline.EXPERT_LAYER_OVERHEAD_S * 1e6:g} us more"),
    ("Overhead per step", f"{roofline.STEP_OVERHEAD_S * 1e6:g} us"),
    ("Host time per step", f"{roofline.HOST_STEP_S * 1e6:g} us, hidden while the device is busy if steps overlap"),
    ("Host link", f"{deployment.PCIE_EFFICIENCY:.0%} of one-way PCIe bandwidth"),
)
"""The cost model's factors as text, by title."""


def parameters(study: Study) -> dict[str, str]:
    """Every setting, by title."""
    settings, placed, cluster = study.settings, study.deployment, study.cluster
    model, gpu, blocks = placed.model, placed.gpu, cluster.num_blocks
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
        "Host tier": _host_tier(placed, cluster.num_host_blocks, settings.block_size),
        "Usable GPU memory": f"{placed.usable_memory:.0%}",
        "Longest call": "as the KV pool allows" if cluster.max_context is None else f"{cluster.max_context:,} tokens",
        "Policy": policy_name(settings.policy),
        "Routing": _routing(settings),
        "Outages": _outages(cluster),
        "Running calls at most": f"{settings.max_running:,} per replica",
        "Tokens per step at most": f"{settings.max_step_tokens:,}",
        "Overlap depth": f"{settings.overlap_depth} (steps in flight while the next is planned)",
        "Prefix cache": "on",
        "Seed": f"{settings.seed}" if study.workload.source.keys() & {"preset", "sample"} else "nothing is drawn",
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


def _routing(settings: StudySettings) -> str:
    name = router_name(settings.router)
    return f"{name}: {DESCRIPTIONS[name]}" if name in DESCRIPTIONS else name


def _outages(cluster: Cluster) -> str:
    said = [
        f"{o.kind.value} of replica {o.replica} from {o.start_ns / NS_PER_S:g} to {o.end_ns / NS_PER_S:g} s"
        for o in cluster.outages
    ]
    return "; ".join(said) or "none"
