"""Run a study: settings and a workload in, a `Study` out."""

from collections.abc import Callable
from pathlib import Path

from ...scheduler import CHECKED, SPEC_HASH
from ..errors import ConfigurationError
from ..version import VERSION
from ..workload.workload import Workload
from ..world.simulation import simulate
from .metrics import call_times, measure
from .settings import StudySettings, command_line, make_cluster, place_model
from .study import Study


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
    if workload.block_size != settings.block_size:
        raise ConfigurationError(
            f"block_size is {settings.block_size} but the workload was loaded for {workload.block_size}; load it again"
        )
    cluster = make_cluster(settings, placed)
    recording = simulate(workload, cluster, progress, trace_paths(record_trace, settings.replicas))
    times = call_times(workload, recording)
    return Study(
        workload=workload,
        recording=recording,
        times=times,
        metrics=measure(workload, recording, times, settings.replicas, settings.replicas * settings.tp),
        settings=settings,
        deployment=placed,
        cluster=cluster,
        provenance={
            "TokenSpeed": VERSION,
            "Scheduler specification": SPEC_HASH,
            "Checked build": "yes" if CHECKED else "no",
            **{f"Workload {name}": str(value) for name, value in workload.source.items()},
            "Command": command_line(settings),
        },
    )


def trace_paths(path: Path | None, replicas: int) -> list[Path]:
    """Where each replica records: `path` itself, or run-0.tstrace, run-1.tstrace, ... for run.tstrace; none if None."""
    if path is None or replicas == 1:
        return [] if path is None else [path]
    return [path.with_stem(f"{path.stem}-{index}") for index in range(replicas)]
