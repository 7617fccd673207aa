"""Which accounts can serve now: an account that is ready behind a shut provider can't."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import AccountView, PoolView

SHUT = ("open", "forced_open")
"""States of a circuit in which nothing passes, until their time is over."""


def shut(pool: PoolView, now: float) -> bool:
    """Whether the provider's circuit turns all of the pool's requests away at ``now``, in epoch seconds."""
    circuit = pool.provider_circuit
    return circuit.state.value in SHUT and (circuit.until is None or circuit.until > now)


def usable(pool: PoolView, now: float) -> list[AccountView]:
    """The accounts of a pool that a request would be given to now."""
    return [] if shut(pool, now) else [account for account in pool.accounts if account.skip is None]


def live_step(names: Iterable[str], pools: dict[str, PoolView], now: float) -> str | None:
    """The first of the named pools that answers now, None when none does."""
    return next((name for name in names if name in pools and usable(pools[name], now)), None)
