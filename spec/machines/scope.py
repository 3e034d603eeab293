"""What the explorer needs to keep small instances finite: ranges of integer parameters, and which numbers may be
shifted.
"""

from ..language.expressions import INT, Expr
from .vocabulary import *

MAX_PROMPT = Expr("const", "MAX_PROMPT", type=INT)
MAX_OUTPUT = Expr("const", "MAX_OUTPUT", type=INT)
"""Bounds of an exploration: prompt tokens and output tokens of a request."""

_tokens = Expr("param", "tokens", type=INT)

# One value below what the guards allow is tried too, so that a dropped guard shows.
spec.explore("submit", "tokens", 0, MAX_PROMPT)
spec.explore("submit", "most", _tokens, _tokens + MAX_OUTPUT)
spec.explore("submit", "turn", newest_arrival(), newest_arrival() + 1)
spec.explore("prefill", "n", 0, PAGE)
spec.explore("prefill_last", "n", 0, PAGE)
spec.explore("decode", "n", 0, WIDTH + 1)
spec.explore("send", "n", 0, PAGE + 1)
spec.explore("receive", "n", 0, PAGE + 1)
spec.explore("land_row", "accepted", 0, WIDTH + 1)
# All texts begin with the same page, named 1 (0 names nothing); from then on there are two ways to go on. Whoever looks
# for a prefix may also look for one that nobody has published.
_where = position(Expr("param", "b", type=Block.name))
for _transition in ("publish", "keep_tail"):
    spec.explore(_transition, "x", _where, _where + 1)
for _transition in ("match_shared", "match_cached", "match_tail"):
    spec.explore(_transition, "x", _where, _where + 2)

# Guards compare step numbers only with each other: a state and its shift by `landed` behave alike.
spec.tick_origin = landed
# Arrival numbers are only compared: a state and the one with their ranks behave alike.
spec.order_only = (arrival, newest_arrival)
