"""The table that the command prints."""

from rich.table import Table

from ..cost.explain import explain
from ..study.metrics import GOOD_TOKENS_PER_S, Metrics
from ..study.study import Study
from .parameters import parameters
from .rows import metric_rows, number, percent


def steady_line(metrics: Metrics) -> str:
    """The rates without warm-up and drain."""
    if metrics.steady_s == 0:
        return "No steady window: the places were never all taken"
    return (
        f"Steady window of {number(metrics.steady_s)} s: {number(metrics.steady_output_tokens_per_min_per_gpu)} output "
        f"tokens/min per GPU, with prompts {number(metrics.steady_total_tokens_per_min_per_gpu)}; "
        f"{percent(metrics.steady_good_share)} good calls"
    )


def steady_output(metrics: Metrics) -> str:
    """The rate of output without warm-up and drain, short."""
    if metrics.steady_s == 0:
        return "no steady window"
    return f"steady {number(metrics.steady_output_tokens_per_min_per_gpu)}"


def metrics_table(study: Study) -> Table:
    """The metrics of a study."""
    metrics, said = study.metrics, parameters(study)
    hits = metrics.hit_tokens / max(metrics.prompt_tokens, 1)
    from_host = ""
    if metrics.host_hit_tokens:
        from_host = f", {percent(metrics.host_hit_tokens / metrics.prompt_tokens)} on the host"
    caption = "\n".join(
        (
            f"{metrics.finished:,} of {metrics.calls:,} calls finished, {metrics.rejected:,} rejected, "
            f"{metrics.retractions:,} retractions",
            f"{percent(metrics.queue_share)} of the time to first token is queueing",
            steady_line(metrics),
            f"{number(metrics.duration_s)} s simulated, {metrics.steps:,} steps, "
            f"devices busy {percent(metrics.device_busy)}",
            f"{percent(hits)} of all prompt tokens were found in the prefix cache{from_host}",
            f"{percent(metrics.good_share)} of calls reach {GOOD_TOKENS_PER_S:g} tokens/s per user",
            "TTFT includes queueing; TPOT leaves the first token out",
            "Rates and hits: p90 is reached in 90 % of cases",
            "Device times are an analytical roofline estimate, not measured",
        )
    )
    table = Table(
        title=f"{study.workload.name} · {said['Model']} on {said['GPUs']}",
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("Metric")
    table.add_column("Unit", style="dim")
    for column in ("p50", "p90", "p99", "mean"):
        table.add_column(column, justify="right")
    for row in metric_rows(metrics):
        table.add_row(row.title, row.unit, row.p50, row.p90, row.p99, row.mean)
    return table


def explanation_table(study: Study) -> Table:
    """Where the time of all steps goes."""
    parts = explain(study.recording.step_runs, study.cluster.cost)
    total = max(float(study.recording.step_runs.runs["busy_ns"].sum()), 1.0)
    table = Table(title="Where the devices' time goes", title_justify="left")
    table.add_column("Part of a step")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, ns in parts.items():
        table.add_row(name, number(ns / 1e9), percent(ns / total))
    return table
