"""Places for probes of half-open circuits: so many over all instances, each with its own end."""

from __future__ import annotations

import math
from typing import Final

from smartfallback.model.circuits import CircuitScope, CircuitTarget
from smartfallback.model.sharing import ProbeReply
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, REQUEST_LIMIT_S, RedisLink
from smartfallback.state.redis_store.replies import parts, text
from smartfallback.state.redis_store.scripts import script

MOST_LEASE_S: Final = 86_400.0
_DROPPED_KEPT_S: Final = 600.0
"""How long a request for a place may lie in a frozen server's socket and still be known as given up."""
_DROPPED_KEPT: Final = 1_000


class Probes:
    """Takes places for probes and gives them back.

    Args:
        link: The way to the server.
        keys: The names of keys.
    """

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def take(self, target: CircuitTarget, probe: str, *, at_once: int, lease_s: float) -> ProbeReply:
        """Take one of the ``at_once`` places for ``lease_s`` seconds; idempotent by ``probe``.

        Asking again neither moves the end of the own lease nor that of any other. A probe that was
        given back gets no place any more.

        Raises:
            StoreLostError: Not answered within the request budget; give the probe back, as it may
                have got a place all the same.
            ValueError: ``at_once`` is below 1, or ``lease_s`` not above 0.
        """
        if at_once < 1:
            raise ValueError("at_once is below 1")
        if math.isnan(lease_s) or lease_s <= 0:
            raise ValueError("lease_s is not above 0")
        reply = await self._link.run(
            script("take_probe"),
            self._places(target),
            [probe, str(at_once), repr(float(min(lease_s, MOST_LEASE_S)))],
            limit_s=REQUEST_LIMIT_S,
        )
        granted, until = (text(part) for part in parts(reply))
        return ProbeReply(granted=granted == "1", until=float(until))

    async def drop(self, target: CircuitTarget, probe: str) -> None:
        """Give the probe's place back; one that has none will get none.

        Raises:
            StoreLostError: The store can't be used; the place is free at the end of its lease.
        """
        await self._link.run(
            script("drop_probe"),
            self._places(target),
            [probe, repr(_DROPPED_KEPT_S), str(_DROPPED_KEPT)],
            limit_s=BACKGROUND_LIMIT_S,
        )

    def _places(self, target: CircuitTarget) -> tuple[str, str]:
        subject, name = f"{target.scope.value}:{target.name}", target.scope.value
        if target.scope is CircuitScope.MODEL:
            # It lies with its account's keys: "ag-3/gemini" is the model "gemini" of the account "ag-3".
            account, _, model = target.name.partition("/")
            subject, name = f"{CircuitScope.ACCOUNT.value}:{account}", f"{target.scope.value}:{model}"
        return self._keys.probes(subject, name), self._keys.dropped_probes(subject, name)
