"""The machines: what requests, KV blocks and steps may do. Read vocabulary, request, block, step, system in this
order.
"""

from .system import SPEC

__all__ = ["SPEC"]
