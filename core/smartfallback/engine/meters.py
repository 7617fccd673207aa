"""Telemetry of one orchestrator: projections of its events, never asked on the request path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

from smartfallback.clock import Clock
from smartfallback.model.events import (
    Event,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    RequestRouted,
)
from smartfallback.model.history import Ending, PastRequest
from smartfallback.model.quota import WindowSpec
from smartfallback.model.snapshot import FairnessView
from smartfallback.policy.fairness import ALARM_THRESHOLD, FairnessWindow, PoolUsage, gini
from smartfallback.telemetry.latency import LatencyHistogram
from smartfallback.telemetry.traffic import TrafficMeter

FAIRNESS_POINTS = 120
FAIRNESS_STEP_S = 15.0
_FAIRNESS_CACHE_S = 1.0
_MOST_REPLAYED = 100
"""Of pools with more accounts the fairness over time begins anew after a restart: it would take too long."""
MOST_RUNNING = 100_000
"""So many requests are followed at once; beyond, the oldest no longer counts as running."""


class PoolAccounts:
    """A pool's account ids with their slots and the window that their use is compared to."""

    def __init__(self, ids: Sequence[str], limits: Sequence[WindowSpec | None]) -> None:
        self.slots: Mapping[str, int] = {account_id: slot for slot, account_id in enumerate(ids)}
        self.limits = tuple(limits)


class Meters:
    """Latency, traffic and fairness, fed with every event.

    Latencies are those of accounts: answers from the cache and requests that waited in the queue are
    left out of them. An answer from the cache is nobody's use either.
    ``shares`` gives what each account of a pool has used of its limit, in percent.
    """

    def __init__(
        self, pools: Mapping[str, PoolAccounts], clock: Clock, shares: Callable[[str], Sequence[float | None]]
    ) -> None:
        now = clock.monotonic()
        self._shares = shares
        self._clock = clock
        self._pools = pools
        self._running: dict[str, None] = {}
        self._usage = {name: PoolUsage(len(pool.slots), now=now) for name, pool in pools.items()}
        self._fairness: dict[str, tuple[float, FairnessView]] = {}
        self._next_point = now + FAIRNESS_STEP_S
        self.latency = LatencyHistogram(now)
        self.first_token = LatencyHistogram(now)
        self.traffic = TrafficMeter(now)
        self.fairness_series: dict[str, deque[float]] = {
            name: deque(maxlen=FAIRNESS_POINTS) for name, pool in pools.items() if len(pool.slots) > 1
        }

    def on_event(self, event: Event) -> None:
        """Take one event into account."""
        if isinstance(event, (RequestRouted, RequestQueued, RequestReplayed)):
            self._begins(event.request_id, self._clock.monotonic())
        elif isinstance(event, RequestFinished):
            self._finished(event)
        elif isinstance(event, RequestFailed):
            now = self._clock.monotonic()
            self._ends(event.request_id, now)
            self.traffic.finished(now, ok=False, fallback=len(event.attempts) > 1, tokens=0)
        elif isinstance(event, RequestCancelled) and event.request_id in self._running:
            del self._running[event.request_id]
            self.traffic.cancelled(self._clock.monotonic())

    def _begins(self, request_id: str, now: float) -> None:
        """Count a request once, however often it is queued and tried again."""
        running = self._running
        if request_id in running:
            return
        if len(running) >= MOST_RUNNING:
            del running[next(iter(running))]
            self.traffic.cancelled(now)
        running[request_id] = None
        self.traffic.started(now)

    def _ends(self, request_id: str, now: float) -> None:
        """A request that ends without having been routed or queued has begun in the same moment."""
        self._begins(request_id, now)
        del self._running[request_id]

    def _finished(self, event: RequestFinished) -> None:
        now = self._clock.monotonic()
        reply = event.reply
        tokens = reply.usage.total_tokens
        fallback = len(reply.attempts) > 1 or reply.degraded
        self._ends(event.request_id, now)
        self.traffic.finished(now, ok=True, fallback=fallback, tokens=tokens)
        if reply.cached_age_s is not None:
            # No account has done anything for it.
            return
        if not reply.queued_s:
            self.latency.record(reply.latency_s, now)
            if reply.first_token_s is not None:
                self.first_token.record(reply.first_token_s, now)
        pool = self._pools[reply.pool]
        self._usage[reply.pool].add(pool.slots[reply.account], tokens, now)

    def restore(self, past: Sequence[PastRequest], offset: float, now: float) -> None:
        """Go on from requests that ended before a restart, before any other is counted.

        Of a pool whose accounts' shares of their limits are known its fairness over time begins anew:
        what the shares were then nobody knows.

        Args:
            past: In the order in which they ended.
            offset: Makes monotonic instants of epoch seconds when it is added to them.
            now: Monotonic seconds.
        """
        if not past:
            return
        begun = min(ended.at - ended.latency_s for ended in past) + offset
        self._usage = {name: PoolUsage(len(pool.slots), now=begun) for name, pool in self._pools.items()}
        self.latency = LatencyHistogram(begun)
        self.first_token = LatencyHistogram(begun)
        self.traffic = TrafficMeter(begun)
        point = max(begun, now - FAIRNESS_POINTS * FAIRNESS_STEP_S) + FAIRNESS_STEP_S
        for ended in past:
            at = ended.at + offset
            while at >= point:
                self._add_points(point)
                point += FAIRNESS_STEP_S
            self._count_past(ended, at)
        while point < now:
            self._add_points(point)
            point += FAIRNESS_STEP_S
        self._fairness.clear()
        self._restore_traffic(past, offset)

    def _count_past(self, ended: PastRequest, at: float) -> None:
        if ended.ending is not Ending.ANSWERED or ended.cached_age_s is not None:
            return
        if not ended.queued_s:
            self.latency.record(ended.latency_s, at)
            if ended.first_token_s is not None:
                self.first_token.record(ended.first_token_s, at)
        pool = self._pools.get(ended.pool)
        slot = None if pool is None else pool.slots.get(ended.account)
        if slot is not None:
            self._usage[ended.pool].add(slot, ended.tokens, at)

    def _add_points(self, at: float) -> None:
        for name, series in self.fairness_series.items():
            size = len(self._pools[name].slots)
            if size <= _MOST_REPLAYED and any(share is None for share in self._shares(name)):
                value = self._usage[name].fairness(FairnessWindow.HOUR, at).requests
                if value is not None:
                    series.append(value)

    def _restore_traffic(self, past: Sequence[PastRequest], offset: float) -> None:
        began = [(ended.at - ended.latency_s + offset, 0, ended) for ended in past]
        came_to_an_end = [(ended.at + offset, 1, ended) for ended in past]
        for at, ends, ended in sorted((*began, *came_to_an_end), key=itemgetter(0, 1)):
            if not ends:
                self.traffic.started(at)
            elif ended.ending is Ending.CANCELLED:
                self.traffic.cancelled(at)
            else:
                ok = ended.ending is Ending.ANSWERED
                self.traffic.finished(at, ok=ok, fallback=ended.fell_back, tokens=ended.tokens)

    def fairness(self, pool: str, now: float) -> FairnessView:
        """A pool's Gini coefficients over the last hour, at most a second old."""
        known = self._fairness.get(pool)
        if known is None or now - known[0] >= _FAIRNESS_CACHE_S:
            view = self._usage[pool].fairness(FairnessWindow.HOUR, now, self._pools[pool].limits)
            view = self._since_reset(pool, view)
            if known is not None and known[1] == view:
                view = known[1]
            known = (now, view)
            self._fairness[pool] = known
        return known[1]

    def _since_reset(self, pool: str, view: FairnessView) -> FairnessView:
        """With the share of each limit used since its reset, which is what fair use is to level.

        While it is being levelled the counts of an hour are rightly uneven, so where every
        account's share is known the alarm goes by the shares alone.
        """
        shares = [share for share in self._shares(pool) if share is not None]
        if len(shares) < len(self._pools[pool].slots):
            return view
        by_share = gini(shares)
        return replace(view, share_of_limit=by_share, alarm=(by_share or 0.0) > ALARM_THRESHOLD)

    def tick(self, now: float) -> None:
        """Add a point to each fairness series when one is due."""
        if now < self._next_point:
            return
        self._next_point = now + FAIRNESS_STEP_S
        for name, series in self.fairness_series.items():
            view = self.fairness(name, now)
            value = view.requests if view.share_of_limit is None else view.share_of_limit
            if value is not None:
                series.append(value)
