"""Readers of public trace formats. Each turns a file into a `Workload`."""

from .detect import read_trace

__all__ = ["read_trace"]
