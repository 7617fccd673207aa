"""How much of a shared quota an instance asks for: enough for a moment, so that little is lost with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from smartfallback.policy.ledger_sharing import Appetite

AHEAD_S: Final = 2.0
"""A slice lasts for about so long at the rate of now."""
LEAST_REQUESTS: Final = 4
"""And for at least so many requests like the last one."""
IDLE_S: Final = 3.0
"""Who has used nothing for so long gives its slice back."""
_MEMORY_S: Final = 1.0
"""Over about so long a rate is reckoned."""


class Demand:
    """What an account is used for here lately.

    Attributes:
        waiting: Requests that wait for a slice now.
    """

    __slots__ = ("_needs", "_peak", "_peak_at", "_rates", "_seen_at", "_spent", "_used_at", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._needs: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._spent: Mapping[str, float] = {}
        self._seen_at = -math.inf
        self._used_at = -math.inf
        self._peak = 0
        self._peak_at = -math.inf

    def expect(self, amounts: Mapping[str, float]) -> None:
        """A request that needs ``amounts``, by key of the window, is to be served."""
        for key, amount in amounts.items():
            self._needs[key] = max(amount, self._needs.get(key, 0.0) * 0.5)

    def wants(self, spent: Mapping[str, float], now: float) -> dict[str, Appetite]:
        """What to lease beyond what is held, by key; nothing for an account that has come to rest.

        Args:
            spent: What was settled here so far, by key.
            now: Monotonic seconds.
        """
        passed = now - self._seen_at
        if passed > 0:
            for key, amount in spent.items():
                gained = max(0.0, amount - self._spent.get(key, 0.0)) if self._spent else 0.0
                if gained:
                    self._used_at = now
                faded = self._rates.get(key, 0.0) * math.exp(-passed / _MEMORY_S)
                self._rates[key] = faded + gained / _MEMORY_S
            self._spent, self._seen_at = dict(spent), now
        if self.waiting:
            self._used_at = now
        if now - self._used_at > IDLE_S:
            return {}
        requests = max(LEAST_REQUESTS, self.waiting)
        return {
            key: Appetite(max(need * requests, self._rates.get(key, 0.0) * AHEAD_S), need)
            for key, need in self._needs.items()
        }

    def is_busy(self, now: float) -> bool:
        """Whether the account was used here lately."""
        return now - max(self._used_at, self._peak_at if self._peak else -math.inf) <= IDLE_S

    def wanted_slots(
        self, running: int, most: int, instances: int, *, line: int, now: float
    ) -> tuple[float, float]:
        """How many places to lease beyond those taken, and how many of them at least.

        ``line`` requests wait for one. Idle places are lent to who needs them; each instance can get its
        equal share at any time, and as long as there are enough places none takes the last one of another.
        """
        if running >= self._peak or now - self._peak_at > IDLE_S:
            self._peak, self._peak_at = running, now
        fair = max(1, most // max(1, instances))
        ceiling = max(fair, most - (instances - 1))
        # Who is alone still leaves places for those who may come.
        ahead = max(2, line, most // 4 if instances == 1 else 0)
        wanted = min(self._peak + ahead, ceiling)
        if most < instances:
            wanted = running + min(1, line)
        return float(max(0, wanted - running)), float(max(1, fair - running))
