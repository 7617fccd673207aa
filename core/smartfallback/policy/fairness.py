"""How evenly the accounts of a pool are used: counts over windows, and Gini coefficients."""

from __future__ import annotations

import math
import sys
from array import array
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.model.quota import QuotaUnit
from smartfallback.model.snapshot import FairnessView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smartfallback.model.quota import WindowSpec

ALARM_THRESHOLD: Final = 0.3
ALARM_MEAN_REQUESTS: Final = 5.0
"""Requests an account, on average, from which unevenness can raise the alarm.

Accounts drawn at random for m requests each have a Gini coefficient near 1 / sqrt(pi * m) by
chance alone, which is 0.25 for 5: below that the alarm would ring for nothing.
"""

_MINUTE_S: Final = 60.0
_MOST_TOKENS: Final = 1 << 40
"""What one request can count for; beyond it an upstream's number is nonsense and would not fit."""


def gini(values: Sequence[float]) -> float | None:
    """The Gini coefficient of non-negative values: 0 when all are equal, 1 - 1/n when one has all.

    Half the relative mean absolute difference, by its form over values in ascending order,
    ``sum((2 i - n - 1) x_i) / (n sum(x))`` for i = 1 to n (Dixon, Weiner, Mitchell-Olds and
    Woodley, "Bootstrapping the Gini coefficient of inequality", Ecology 68, 1987; the population
    form, without the correction n / (n - 1)). O(n log n); scaling all values changes nothing.

    Returns:
        None below two values, where evenness has no meaning; 0 when all are 0.

    Raises:
        ValueError: A value is negative or not finite.
    """
    n = len(values)
    ordered = sorted(values)
    if not all(0 <= value < math.inf for value in ordered):
        raise ValueError("a Gini coefficient needs values that are finite and not negative")
    if n < 2:
        return None
    largest = ordered[-1]
    if largest == 0:
        return 0.0
    # Taking shares of the largest first keeps the sums from overflowing.
    shares = [value / largest for value in ordered]
    spread = math.fsum((2 * i - n - 1) * share for i, share in enumerate(shares, 1))
    return min(max(spread / (n * math.fsum(shares)), 0.0), 1.0 - 1.0 / n)


class FairnessWindow(StrEnum):
    """The spans over which use is counted."""

    HOUR = "hour"
    DAY = "day"
    SINCE_RESET = "since reset"


class UsageTotals(NamedTuple):
    """Requests and tokens of a window, by account slot."""

    requests: tuple[int, ...]
    tokens: tuple[int, ...]


class _Bucket(NamedTuple):
    """What the accounts used in one bucket; only those that were used are listed."""

    number: int
    slots: array[int]
    requests: array[int]
    tokens: array[int]


class _Ring:
    """Sums over the last ``count`` buckets of ``bucket_s`` seconds, the open one among them."""

    __slots__ = ("_bucket_s", "_closed", "_count", "_index", "_open", "requests", "tokens")

    def __init__(self, accounts: int, bucket_s: float, count: int) -> None:
        self._bucket_s = bucket_s
        self._count = count
        self._index = -sys.maxsize  # before any time, whatever the clock counts from
        self._open: dict[int, tuple[int, int]] = {}
        self._closed: deque[_Bucket] = deque()
        self.requests = [0] * accounts
        self.tokens = [0] * accounts

    def turn(self, at: float) -> None:
        """Close the open bucket if ``at`` lies beyond it, and forget those that are too old."""
        index = int(at // self._bucket_s)
        if index <= self._index:
            return
        if self._open:
            requests, tokens = zip(*self._open.values(), strict=True)
            self._closed.append(
                _Bucket(self._index, array("L", self._open), array("Q", requests), array("Q", tokens))
            )
            self._open = {}
        self._index = index
        oldest = index - self._count
        while self._closed and self._closed[0].number <= oldest:
            bucket = self._closed.popleft()
            for slot, requests_then, tokens_then in zip(
                bucket.slots, bucket.requests, bucket.tokens, strict=True
            ):
                self.requests[slot] -= requests_then
                self.tokens[slot] -= tokens_then

    def absorb(self, slot: int, requests: int, tokens: int) -> None:
        self.requests[slot] += requests
        self.tokens[slot] += tokens
        before = self._open.get(slot)
        self._open[slot] = (
            (requests, tokens) if before is None else (before[0] + requests, before[1] + tokens)
        )


class PoolUsage:
    """Requests and tokens of a pool's accounts over the last hour, the last day, and since reset.

    An addition only touches the counts of the current minute; once a minute these go into rings of
    buckets with running sums (60 minutes, 24 hours), so memory is bounded by the number of accounts
    however long it runs. The windows are exact to one bucket: an hour covers the current minute and
    the 59 before it, a day the current hour and the 23 before it. A clock that steps back leaves
    time standing still until it catches up.

    Args:
        accounts: Number of accounts; their slots count from 0.
        now: Any clock in seconds, the same at each call.
    """

    __slots__ = ("_day", "_hour", "_minute_ends", "_requests", "_since", "_tokens", "_touched", "reset_at")

    def __init__(self, accounts: int, *, now: float) -> None:
        self._requests = [0] * accounts
        self._tokens = [0] * accounts
        self._touched: list[int] = []
        self._hour = _Ring(accounts, _MINUTE_S, 60)
        self._day = _Ring(accounts, 60 * _MINUTE_S, 24)
        self._since = ([0] * accounts, [0] * accounts)
        self._minute_ends = -math.inf
        self.reset_at = now
        self._turn(now)

    def add(self, slot: int, tokens: int, now: float) -> None:
        """Count one request of ``tokens``; a number that can't be (below 0, above 2**40) is clamped."""
        if now >= self._minute_ends:
            self._turn(now)
        if not self._requests[slot]:
            self._touched.append(slot)
        self._requests[slot] += 1
        if tokens > 0:
            self._tokens[slot] += tokens if tokens < _MOST_TOKENS else _MOST_TOKENS

    def totals(self, window: FairnessWindow, now: float) -> UsageTotals:
        """Requests and tokens of each account in ``window``, by slot. O(accounts)."""
        self._catch_up(now)
        if window is FairnessWindow.SINCE_RESET:
            return UsageTotals(tuple(self._since[0]), tuple(self._since[1]))
        ring = self._hour if window is FairnessWindow.HOUR else self._day
        return UsageTotals(tuple(ring.requests), tuple(ring.tokens))

    def reset(self, now: float) -> None:
        """Begin SINCE_RESET anew for all accounts (one alone would make them incomparable)."""
        self._catch_up(now)
        for counts in self._since:
            counts[:] = [0] * len(counts)
        self.reset_at = now

    def fairness(
        self,
        window: FairnessWindow,
        now: float,
        limits: Sequence[WindowSpec | None] = (),
        *,
        alarm_threshold: float = ALARM_THRESHOLD,
    ) -> FairnessView:
        """:func:`fairness` of what was used in ``window``."""
        requests, tokens = self.totals(window, now)
        return fairness(requests, tokens, limits, alarm_threshold=alarm_threshold)

    def _catch_up(self, now: float) -> None:
        if now >= self._minute_ends:
            self._turn(now)
        else:
            self._flush()

    def _turn(self, now: float) -> None:
        self._flush()
        self._hour.turn(now)
        self._day.turn(now)
        self._minute_ends = (now // _MINUTE_S + 1) * _MINUTE_S

    def _flush(self) -> None:
        requests, tokens = self._requests, self._tokens
        since_requests, since_tokens = self._since
        for slot in self._touched:
            count, amount = requests[slot], tokens[slot]
            requests[slot] = tokens[slot] = 0
            since_requests[slot] += count
            since_tokens[slot] += amount
            self._hour.absorb(slot, count, amount)
            self._day.absorb(slot, count, amount)
        self._touched.clear()


def shares_of_limit(
    requests: Sequence[int], tokens: Sequence[int], limits: Sequence[WindowSpec | None]
) -> list[float]:
    """Use as a share of each account's limit, of those accounts whose limit counts what was used.

    Args:
        requests: Requests by account.
        tokens: Tokens by account.
        limits: The quota window by account that use is compared to; None, and windows in credits
            or fractions, leave the account out.
    """
    shares = []
    for count, amount, limit in zip(requests, tokens, limits, strict=True):
        if limit is None or not limit.limit > 0:
            continue
        if limit.unit is QuotaUnit.TOKENS:
            shares.append(amount / limit.limit)
        elif limit.unit is QuotaUnit.REQUESTS:
            shares.append(count / limit.limit)
    return shares


def fairness(
    requests: Sequence[int],
    tokens: Sequence[int],
    limits: Sequence[WindowSpec | None] = (),
    *,
    alarm_threshold: float = ALARM_THRESHOLD,
) -> FairnessView:
    """Gini coefficients over requests, over tokens, and over use as a share of each account's limit.

    Accounts with unequal limits are meant to have unequal counts, so the alarm goes by the share
    of the limit when it is known for all accounts, otherwise by the larger of the two others. It
    stays silent below a mean of :data:`ALARM_MEAN_REQUESTS` requests an account.

    Raises:
        ValueError: The sequences differ in length (``limits`` may be empty).
    """
    shares = shares_of_limit(requests, tokens, limits) if limits else []
    by_requests, by_tokens, by_share = gini(requests), gini(tokens), gini(shares)
    alarm = False
    if sum(requests) >= ALARM_MEAN_REQUESTS * len(requests):
        whole = by_share is not None and len(shares) == len(requests)
        worst = by_share if whole else max(by_requests or 0.0, by_tokens or 0.0)
        alarm = worst is not None and worst > alarm_threshold
    return FairnessView(requests=by_requests, tokens=by_tokens, share_of_limit=by_share, alarm=alarm)
