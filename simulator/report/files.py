"""Write a study's results into a folder. The same study gives the same bytes in every file."""

import json
from pathlib import Path
from tempfile import TemporaryFile

from ..errors import ConfigurationError
from ..study.metrics import DEFINITIONS, as_json
from ..study.settings import settings_as_json
from ..study.study import Study
from ..study.views import by_replica
from .page import html_page
from .parameters import parameters
from .perfetto import perfetto_trace
from .tables_csv import requests_csv, sessions_csv, steps_csv

FILE_NAMES = ("summary.json", "requests.csv", "sessions.csv", "steps.csv", "trace.json.gz", "report.html")


def prepare_folder(folder: Path) -> None:
    """Create `folder` and make sure that the files of a study can be written into it; leaves no file behind.

    Raises ConfigurationError if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        for path in (folder / name for name in FILE_NAMES):
            if path.exists():
                path.open("ab").close()
    except OSError as error:
        raise _cannot_be_written(folder, error) from error


def write_files(study: Study, folder: Path) -> list[str]:
    """Write requests.csv, sessions.csv, steps.csv, summary.json, report.html and trace.json.gz; returns their names.

    Raises ConfigurationError if the folder cannot be written.
    """
    contents = (
        summary_json(study).encode(),
        requests_csv(study).encode(),
        sessions_csv(study).encode(),
        steps_csv(study).encode(),
        perfetto_trace(study),
        html_page(study).encode(),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(FILE_NAMES, contents, strict=True):
            (folder / name).write_bytes(content)
    except OSError as error:
        raise _cannot_be_written(folder, error) from error
    return list(FILE_NAMES)


def _cannot_be_written(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"out is {str(folder)!r}, which cannot be written: {error.strerror}; choose another folder"
    )


def summary_json(study: Study) -> str:
    """The metrics with every setting, as values and in words, assumption and definition."""
    placed, cluster = study.deployment, study.cluster
    summary = {
        "metrics": as_json(study.metrics),
        "replicas": by_replica(study),
        "settings": settings_as_json(study.settings),
        "deployment": {
            "model_parameters": placed.model.parameters,
            "active_parameters": placed.model.active_parameters,
            "weights": placed.weights.value,
            "weight_bytes_per_gpu": placed.weight_bytes_per_gpu,
            "kv_dtype": placed.kv.value,
            "kv_bytes_per_token_and_gpu": placed.kv_bytes_per_token,
            "num_blocks": cluster.num_blocks,
            "num_host_blocks": cluster.num_host_blocks,
            "max_context": cluster.max_context,
            "host_step_ns": cluster.host_step_ns,
            "usable_memory": placed.usable_memory,
        },
        "cost": cluster.cost.describe(),
        "workload": {
            "name": study.workload.name,
            "sessions": len(study.workload.sessions),
            "calls": len(study.workload.calls),
            "concurrency": study.workload.concurrency,
            **study.workload.source,
        },
        "warnings": study.workload.warnings,
        "assumptions": study.workload.assumptions,
        "parameters": parameters(study),
        "rejections": sorted(set(study.recording.rejected.values()))[:20],
        "definitions": DEFINITIONS,
        "provenance": study.provenance,
    }
    return json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
