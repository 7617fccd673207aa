"""Requests of the last minute, second by second."""

from __future__ import annotations

from math import floor
from typing import Final

from smartfallback.model.snapshot import TrafficView

SECONDS: Final = 60
"""How far back the meter looks."""


class TrafficMeter:
    """Counts requests as they start and end, in a ring of 60 one-second buckets.

    A request counts in the second in which it starts, its outcome and tokens in the second in
    which it ends. Rates are averages over the ring, or over the meter's age while that is less.

    Args:
        now: Seconds on the clock that all methods are given.
    """

    __slots__ = (
        "_answered",
        "_failed",
        "_fallbacks",
        "_first_second",
        "_in_flight",
        "_second",
        "_started",
        "_tokens",
        "_total_failed",
        "_total_requests",
        "_view",
    )

    def __init__(self, now: float) -> None:
        self._first_second = self._second = floor(now)
        self._started = [0] * SECONDS
        self._answered = [0] * SECONDS
        self._failed = [0] * SECONDS
        self._fallbacks = [0] * SECONDS
        self._tokens = [0] * SECONDS
        self._in_flight = 0
        self._total_requests = 0
        self._total_failed = 0
        self._view: TrafficView | None = None

    def started(self, now: float) -> None:
        """A request came in."""
        self._started[self._bucket(now)] += 1
        self._in_flight += 1
        self._total_requests += 1
        self._view = None

    def finished(self, now: float, *, ok: bool, fallback: bool, tokens: int) -> None:
        """A request ended with an answer or an error; ``fallback`` when its first choice did not answer."""
        bucket = self._bucket(now)
        if ok:
            self._answered[bucket] += 1
        else:
            self._failed[bucket] += 1
            self._total_failed += 1
        if fallback:
            self._fallbacks[bucket] += 1
        self._tokens[bucket] += max(0, tokens)
        self._ended()

    def cancelled(self, now: float) -> None:
        """The caller went away: neither a success nor a failure."""
        self._bucket(now)
        self._ended()

    def view(self, now: float) -> TrafficView:
        """The last minute, the running second included; the same object while nothing has changed."""
        bucket = self._bucket(now)
        view = self._view
        if view is None:
            span = min(SECONDS, self._second - self._first_second + 1)
            failed = sum(self._failed)
            ended = sum(self._answered) + failed
            view = self._view = TrafficView(
                in_flight=self._in_flight,
                requests_per_s=sum(self._started) / span,
                tokens_per_s=sum(self._tokens) / span,
                success_rate=(ended - failed) / ended if ended else None,
                fallback_rate=sum(self._fallbacks) / ended if ended else None,
                total_requests=self._total_requests,
                total_failed=self._total_failed,
                requests_series=_oldest_first(self._started, bucket),
                failed_series=_oldest_first(self._failed, bucket),
            )
        return view

    def _ended(self) -> None:
        # An end without a beginning (a meter made while requests ran) must not count below zero.
        self._in_flight = max(0, self._in_flight - 1)
        self._view = None

    def _bucket(self, now: float) -> int:
        """The place of the running second in the ring, with what has left the minute cleared.

        Should the clock go back, the latest second seen goes on.
        """
        second = floor(now)
        if second > self._second:
            for gone in range(max(self._second + 1, second - SECONDS + 1), second + 1):
                place = gone % SECONDS
                for ring in (self._started, self._answered, self._failed, self._fallbacks, self._tokens):
                    ring[place] = 0
            self._second = second
            self._view = None
        return self._second % SECONDS


def _oldest_first(ring: list[int], latest: int) -> tuple[float, ...]:
    return (*ring[latest + 1 :], *ring[: latest + 1])
