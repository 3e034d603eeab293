"""What a study leaves behind: a table, CSV, JSON, one HTML page and a timeline for Perfetto."""

from .files import prepare_folder, write_files
from .table import explanation_table, metrics_table

__all__ = ["explanation_table", "metrics_table", "prepare_folder", "write_files"]
