"""The choices of a study, and the workload, deployment and cluster that they stand for."""

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from ..cost.choose import ROOFLINE, step_cost
from ..cost.recorded import RecordedTimes
from ..cost.roofline import prefill_figures, roofline
from ..errors import ConfigurationError, WorkloadError
from ..hardware.deployment import USABLE_MEMORY, Deployment
from ..hardware.gpus import find_gpu
from ..hardware.model_shapes import find_model
from ..hardware.precision import Precision
from ..policies import PolicyChoice, policy_name
from ..routing import RouterChoice, router_name
from ..traces import read_trace
from ..traces.source import trace_source
from ..workload.generator import generate
from ..workload.options import BlockIds, TimeUnit, WorkloadOptions, choice
from ..workload.presets import PRESETS
from ..workload.sampling import sampled
from ..workload.workload import Workload
from ..world.cluster import Cluster
from ..world.dispatcher import Outage

MAX_HOST_BLOCKS: Final = 2**31 - 1
"""What the scheduler can name."""


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
    sample: int | None = None
    """Draw so many sessions of a trace at random, with `seed`."""
    concurrency: int | None = None
    """Sessions alive at once; None for the workload's default (a trace with arrival times: no limit)."""
    think_cap: float = 60.0
    """Longest think or tool time between the calls of a session, seconds."""
    skip_bad: bool = False
    """Leave out what cannot be read of a trace, and say how much, instead of refusing it."""
    time_unit: str = "auto"
    """What a trace's times count: ms, s, or auto where that can be told."""
    block_ids: str = "prefixes"
    """What a trace's block ids name: prefixes (chain ids), or the contents of single blocks."""
    trace_block_size: int | None = None
    """Tokens for each id of a Mooncake trace; None: 512."""
    block_size: int = 64
    max_step_tokens: int = 8192
    max_running: int = 256
    overlap_depth: int = 1
    num_blocks: int | None = None
    """KV blocks of each replica; None: what fits beside the weights."""
    usable_memory: float = USABLE_MEMORY
    """Share of GPU memory for weights and KV cache."""
    max_context: int | str = "model"
    """Longest prompt and output together, tokens; longer calls are rejected. model: the model's; none: no limit."""
    host_gib: float = 0.0
    """Host memory for KV blocks of each replica, GiB; 0: no host tier."""
    host_blocks: int | None = None
    """The same in blocks."""
    policy: PolicyChoice = "default"
    """By name, or a subclass of Policy (each replica gets an object of its own)."""
    router: RouterChoice = "session"
    """By name, or a class that is a Router."""
    outages: tuple[Outage, ...] = ()
    """Replicas that fail or are drained."""
    cost: str = ROOFLINE
    """roofline, or a file with measured or recorded step times."""
    weights: str = "auto"
    """bf16, fp8 or fp4; auto: the first of these that fits."""
    kv_dtype: str = "auto"
    """bf16 or fp8; auto: fp8 unless the weights are bf16."""


def load_workload(settings: StudySettings) -> Workload:
    """The workload of a study. Raises WorkloadError if there is no such file or preset or it cannot be read."""
    for field in ("limit", "concurrency", "sample", "trace_block_size"):
        value = getattr(settings, field)
        if value is not None and value < 1:
            raise ConfigurationError(f"{field} is {value}; it must be at least 1")
    if not 0 <= settings.think_cap <= 1e7:
        raise ConfigurationError(f"think_cap is {settings.think_cap}; it must be between 0 and 10,000,000 seconds")
    if settings.block_size < 1:
        raise ConfigurationError(f"block_size is {settings.block_size}; it must be at least 1")
    options = WorkloadOptions(
        block_size=settings.block_size,
        limit=settings.limit,
        think_cap_ns=round(settings.think_cap * 1e9),
        concurrency=settings.concurrency,
        skip_bad=settings.skip_bad,
        time_unit=choice(TimeUnit, settings.time_unit, "time_unit"),
        block_ids=choice(BlockIds, settings.block_ids, "block_ids"),
        trace_block_size=settings.trace_block_size,
    )
    profile = PRESETS.get(settings.workload)
    if profile is not None:
        if settings.sample is not None:
            raise ConfigurationError(f"sample is {settings.sample}; a preset is drawn with its seed: use limit instead")
        return generate(profile, settings.seed, options)
    path = Path(settings.workload)
    if not path.exists():
        raise WorkloadError(
            f"workload is {settings.workload!r}, which is neither a file nor a preset; presets: {', '.join(PRESETS)}"
        )
    workload = replace(read_trace(path, options), source=trace_source(path))
    return workload if settings.sample is None else sampled(workload, settings.sample, settings.seed)


def place_model(settings: StudySettings) -> Deployment:
    """The deployment of a study. Raises ConfigurationError if the model cannot be placed."""
    model, gpu = find_model(settings.model), find_gpu(settings.gpu)
    choices = list(Precision) if settings.weights == "auto" else [Precision.parse(settings.weights, "weights")]
    for weights in choices:
        kv = Precision.FP8 if weights is not Precision.BF16 else Precision.BF16
        if settings.kv_dtype != "auto":
            kv = Precision.parse(settings.kv_dtype, "kv_dtype")
        placed = Deployment(model, gpu, settings.tp, weights, kv, settings.usable_memory)
        try:
            placed.kv_blocks(settings.block_size)
        except ConfigurationError:
            if weights is choices[-1]:
                raise
        else:
            break
    return placed


def make_cluster(settings: StudySettings, placed: Deployment) -> Cluster:
    """What the study runs on. Raises ConfigurationError naming the setting that cannot work."""
    blocks = placed.kv_blocks(settings.block_size) if settings.num_blocks is None else settings.num_blocks
    host_blocks = settings.host_blocks
    if host_blocks is None:
        host_blocks = placed.host_blocks(settings.host_gib, settings.block_size)
    if host_blocks > MAX_HOST_BLOCKS:
        raise ConfigurationError(f"host_blocks is {host_blocks}; it must be at most {MAX_HOST_BLOCKS:,}")
    cost = step_cost(settings.cost, placed, settings.replicas, settings.max_running, settings.max_step_tokens)
    figures = prefill_figures(roofline(placed) if isinstance(cost, RecordedTimes) else cost, settings.max_step_tokens)
    return Cluster(
        settings.replicas,
        cost,
        blocks,
        settings.max_running,
        settings.max_step_tokens,
        settings.overlap_depth,
        num_host_blocks=host_blocks,
        host_copy_tokens_per_s=placed.host_tokens_per_s,
        prefill=figures,
        policy=settings.policy,
        router=settings.router,
        max_context=_max_context(settings, placed),
        outages=settings.outages,
    )


def _max_context(settings: StudySettings, placed: Deployment) -> int | None:
    limit = settings.max_context
    if limit == "model":
        return placed.model.max_context
    if limit == "none":
        return None
    if isinstance(limit, int) and limit >= 2:
        return limit
    raise ConfigurationError(f"max_context is {limit!r}; it must be a number of tokens from 2 on, 'model' or 'none'")


def settings_as_json(settings: StudySettings) -> dict[str, Any]:
    """The settings as JSON values by field; policies and routers by name, and no path of this machine."""
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values["workload"] = Path(settings.workload).name
    values["cost"] = Path(settings.cost).name
    values["policy"] = policy_name(settings.policy)
    values["router"] = router_name(settings.router)
    values["outages"] = [
        {"replica": o.replica, "start_ns": o.start_ns, "end_ns": o.end_ns, "kind": o.kind.value}
        for o in settings.outages
    ]
    return values


def command_line(settings: StudySettings) -> str:
    """The command that runs this study again, from a folder with the trace."""
    words = ["tokenspeed", "simulate"]
    values = settings_as_json(settings)
    for field in fields(settings):
        value = values[field.name]
        if field.name == "outages":
            for outage in value:
                seconds = f"{outage['start_ns'] / 1e9:g}-{outage['end_ns'] / 1e9:g}"
                words += ["--outage", f"{outage['replica']}:{seconds}:{outage['kind']}"]
        elif field.name == "skip_bad":
            words += ["--skip-bad"] if value else []
        elif value != field.default:
            words += [f"--{field.name.replace('_', '-')}", shlex.quote(str(value))]
    return " ".join(words)
