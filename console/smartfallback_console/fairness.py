"""Which of a pool's Gini coefficients is its headline."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartfallback import FairnessView

EVEN = 0.1
"""Up to this Gini coefficient a pool's use is called even."""


def headline(view: FairnessView) -> float | None:
    """The Gini over what is used of each limit since its reset; over the hour's requests without limits.

    Use is levelled by quota, so counts are rightly uneven while it catches up.
    """
    return view.requests if view.share_of_limit is None else view.share_of_limit


def gini(value: float | None) -> str:
    """A coefficient in two decimals: more would tick without telling anything."""
    return "—" if value is None else f"{value:.2f}"
