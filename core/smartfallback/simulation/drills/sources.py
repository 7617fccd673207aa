"""A quota source around a real one that can't be asked while a drill says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from smartfallback.model.quota import QuotaReading
from smartfallback.model.specs import AccountSpec
from smartfallback.quota_sources.base import QuotaFault, QuotaSource, QuotaSourceError
from smartfallback.simulation.faults import QuotaTrouble

_FAULTS: Final = {
    QuotaTrouble.ABSENT: (QuotaFault.MISSING, "there is no such endpoint"),
    QuotaTrouble.ERROR: (QuotaFault.UNAVAILABLE, "503 from the quota endpoint"),
    QuotaTrouble.HTML: (QuotaFault.MALFORMED, "a page in place of a quota"),
    QuotaTrouble.EMPTY: (QuotaFault.MALFORMED, "the answer names no quota"),
}
_LOOK_S: Final = 0.1
PLAYED: Final = (QuotaTrouble.HANG, *_FAULTS)
"""What a client can play; the other troubles are in the numbers of an answer."""


class DrilledSource:
    """Passes questions on to ``inner``, but for those that drills leave without an answer.

    Args:
        inner: The real source; closed with this one.
        trouble: What a drill does to an account's quota endpoint now, None for nothing.
        other_way: Whether ``inner`` has another way to ask than the endpoint.
    """

    def __init__(
        self,
        inner: QuotaSource,
        trouble: Callable[[str], QuotaTrouble | None],
        other_way: Callable[[], bool],
    ) -> None:
        self.inner = inner
        self._trouble = trouble
        self._other_way = other_way
        self.name = inner.name
        self.ttl_s = inner.ttl_s
        self.missing_retry_s = inner.missing_retry_s
        self.estimates_when_missing = inner.estimates_when_missing
        self.assumed_kind = inner.assumed_kind

    async def read(self, account: AccountSpec) -> QuotaReading:
        """See :meth:`QuotaSource.read`."""
        while True:
            trouble = self._trouble(account.id)
            if trouble is not QuotaTrouble.HANG or self._other_way():
                break
            await asyncio.sleep(_LOOK_S)
        if trouble in _FAULTS and not self._other_way():
            kind, words = _FAULTS[trouble]
            raise QuotaSourceError(f"{words}, by a drill", kind)
        return await self.inner.read(account)

    async def aclose(self) -> None:
        """Close the real source."""
        await self.inner.aclose()
