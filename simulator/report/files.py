"""Write a study's results into a folder. The same study gives the same bytes in every file."""

import json
from pathlib import Path

from ..errors import ConfigurationError
from ..metrics import DEFINITIONS, as_json
from ..study import Study
from .page import html_page
from .perfetto import perfetto_trace
from .tables_csv import requests_csv, steps_csv


def write_files(study: Study, folder: Path) -> list[str]:
    """Write requests.csv, steps.csv, summary.json, report.html and trace.json.gz; returns their names.

    Raises ConfigurationError if the folder cannot be written.
    """
    contents = {
        "summary.json": summary_json(study).encode(),
        "requests.csv": requests_csv(study).encode(),
        "steps.csv": steps_csv(study).encode(),
        "trace.json.gz": perfetto_trace(study),
        "report.html": html_page(study).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"out is {str(folder)!r}, which cannot be written: {error.strerror}") from error
    return list(contents)


def summary_json(study: Study) -> str:
    """The metrics with every parameter, assumption and definition."""
    summary = {
        "metrics": as_json(study.metrics),
        "workload": study.workload.name,
        "assumptions": study.workload.assumptions,
        "parameters": study.parameters,
        "rejections": sorted(set(study.recording.rejected.values()))[:20],
        "definitions": DEFINITIONS,
        "scheduler": study.scheduler,
    }
    return json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
