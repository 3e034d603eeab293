"""The table that the command prints."""

from rich.table import Table

from ..study.metrics import GOOD_TOKENS_PER_S
from ..study.study import Study
from .rows import metric_rows, number, percent


def metrics_table(study: Study) -> Table:
    """The metrics of a study."""
    metrics, parameters = study.metrics, study.parameters
    hits = metrics.hit_tokens / max(metrics.prompt_tokens, 1)
    from_host = ""
    if metrics.host_hit_tokens:
        from_host = f", {percent(metrics.host_hit_tokens / metrics.prompt_tokens)} on the host"
    caption = "\n".join(
        (
            f"{metrics.finished:,} of {metrics.calls:,} calls finished, {metrics.rejected:,} rejected, "
            f"{metrics.retractions:,} retractions",
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
        title=f"{study.workload.name} · {parameters['Model']} on {parameters['GPUs']}",
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
