"""The machines: what requests, KV blocks, steps, host pages and copies may do.

Read vocabulary, request, block, step and copy in this order, then the properties.
"""

from .system import SPEC

__all__ = ["SPEC"]
