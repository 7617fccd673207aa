"""Selection: which account of a pool should answer next, in a time that hardly grows with the pool."""

from smartfallback.policy.selection.choice import Choice
from smartfallback.policy.selection.scoring import UNKNOWN_PERCENT_USED, score_terms
from smartfallback.policy.selection.selection import Selection

__all__ = ["UNKNOWN_PERCENT_USED", "Choice", "Selection", "score_terms"]
