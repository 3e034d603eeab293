"""Launch choices that were measured before, kept in tables beside this file. Nothing is timed when serving.

A kernel with something to choose (tile, splits) asks `tuned` for its shape and falls back on its own rule:

    choice = tuned("mla_decode", "triton_split_kv", q.device, rows=rows, queries=queries) or {"splits": rule(...)}

It declares a `Tunable`, from which `python -m tokenspeed.kernels.tuning` writes the table on the device at hand.
"""

from .table import Choice, Entry, Table, bucket, tuned
from .tuner import TUNABLES, Tunable, tunable

__all__ = ["TUNABLES", "Choice", "Entry", "Table", "Tunable", "bucket", "tunable", "tuned"]
