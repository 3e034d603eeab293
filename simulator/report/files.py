"""Write a study's results into a folder. The same study gives the same bytes in every file."""

import json
from pathlib import Path
from tempfile import TemporaryFile

from ..errors import ConfigurationError
from ..study.metrics import DEFINITIONS, as_json
from ..study.study import Study
from .page import html_page
from .perfetto import perfetto_trace
from .tables_csv import requests_csv, steps_csv

FILE_NAMES = ("summary.json", "requests.csv", "steps.csv", "trace.json.gz", "report.html")


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
    """Write requests.csv, steps.csv, summary.json, report.html and trace.json.gz; returns their names.

    Raises ConfigurationError if the folder cannot be written.
    """
    contents = (
        summary_json(study).encode(),
        requests_csv(study).encode(),
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
