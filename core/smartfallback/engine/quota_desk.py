"""What the outside says about quotas comes in here: sources, rate-limit headers, the operator.

Sources are asked in the background (``quota_sources.refresher``); no request ever waits for one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Roster
from smartfallback.model.events import QuotaCorrected, QuotaHeard
from smartfallback.model.quota import QuotaReading, TruthLabel, WindowReading
from smartfallback.model.specs import PoolSpec
from smartfallback.policy.ledger import OwnUse
from smartfallback.quota_sources.refresher import QuotaRefresher, RefreshStats, Watch

SourceFactory = Callable[[PoolSpec, Clock], Mapping[str, Watch]]


class QuotaDesk:
    """Keeps the ledgers in line with what providers report. On one event loop.

    Args:
        roster: The accounts.
        placement: Merges readings and places the account after each.
        clock: Time of readings.
        bus: Told of every change in how well a quota is known.
        rng: Spreads the refreshes.
        sources: The sources of a pool's accounts.
    """

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        clock: Clock,
        bus: Bus,
        rng: random.Random,
        sources: SourceFactory,
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._clock = clock
        self._bus = bus
        self._rng = rng
        self._sources = sources
        self._marks: dict[str, OwnUse] = {}
        self._refresher: QuotaRefresher | None = None
        self._watched: frozenset[str] = frozenset()
        self._asking: set[asyncio.Task[QuotaReading]] = set()

    async def start(self) -> None:
        """Begin to ask the sources."""
        watches: dict[str, Watch] = {}
        for pool in self._roster.pools.values():
            watches |= self._sources(pool.spec, self._clock)
        if not watches:
            return
        self._watched = frozenset(watches)
        refresher = QuotaRefresher(watches, self._clock, self._heard, self._rng, on_asked=self._about_to_ask)
        self._refresher = await refresher.__aenter__()
        self._placement.resets.validate = self._validate

    async def aclose(self) -> None:
        """End every call. Safe to call twice."""
        refresher, self._refresher = self._refresher, None
        self._placement.resets.validate = None
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        if refresher is not None:
            await refresher.aclose()

    @property
    def stats(self) -> RefreshStats | None:
        """What the cache did so far; None without any source."""
        return None if self._refresher is None else self._refresher.stats

    def check(self, account_id: str) -> None:
        """An attempt relies on what is known of the account's quota; counts whether that was fresh."""
        if self._refresher is not None and account_id in self._watched:
            self._refresher.note_check(account_id)

    def has_source(self, account_id: str) -> bool:
        """Whether the account's quota can be asked for."""
        return account_id in self._watched

    def refresh(self, account_id: str) -> bool:
        """Ask the account's source now, in the background; False if it has none."""
        refresher = self._refresher
        if refresher is None or account_id not in self._watched:
            return False
        task = asyncio.get_running_loop().create_task(refresher.refresh_now(account_id))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return True

    def correct(
        self,
        account: AccountRuntime,
        window: int,
        used: float,
        label: TruthLabel = TruthLabel.REPORTED,
    ) -> None:
        """The operator knows better: set what is used of a window, and take a wall away.

        What the account's source said before is corrected too: it does not come back when the source
        fails later.

        Raises:
            ValueError: ``used`` is negative or not finite.
            IndexError: There is no such window.
        """
        at = self._clock.time()
        before = account.ledger.tracked(at)[window].used
        # What a person read off the provider's page is a report, and ages like one.
        account.ledger.set_used(window, used, at, label)
        if self._refresher is not None and account.id in self._watched:
            self._refresher.forget(account.id)
        account.ledger.clear_exhausted(at)
        self._placement.place(account, self._clock.monotonic())
        bus = self._bus
        bus.publish(
            QuotaCorrected(
                bus.next_seq(), at, account.id, account.ledger.tracked(at)[window].kind.value, before, used
            )
        )

    def learn(self, account: AccountRuntime, limits: Sequence[WindowReading]) -> None:
        """Take up what the rate-limit headers of an answer said.

        Limits by the minute are shown and no more; a quota window is merged as ``learned``.
        """
        account.limits = tuple(limits)
        if any(limit.kind is not None for limit in limits):
            reading = QuotaReading(
                account.id, "rate-limit headers", TruthLabel.LEARNED, self._clock.time(), account.limits
            )
            self._placement.read(account, reading)

    def hear_from_elsewhere(self, account: AccountRuntime, reading: QuotaReading) -> None:
        """Another instance has asked the account's source; what is older than the own reading is no news."""
        known = account.reading
        if known is None or known.label is not TruthLabel.REPORTED or known.read_at < reading.read_at:
            # The mark of the own source, which may be under way, stays what it is.
            self._take_up(reading, account.ledger.own_use(self._clock.time()))

    def _about_to_ask(self, account_id: str) -> None:
        self._marks[account_id] = self._roster.accounts[account_id].ledger.own_use(self._clock.time())

    def _validate(self, account: AccountRuntime) -> bool:
        return self.refresh(account.id)

    def _heard(self, reading: QuotaReading) -> None:
        self._take_up(reading, self._marks.get(reading.account))

    def _take_up(self, reading: QuotaReading, mark: OwnUse | None) -> None:
        account = self._roster.accounts[reading.account]
        before = account.reading
        account.reading = reading
        if account.kept is not None:
            account.kept.heard(reading, mark)
        self._placement.read(account, reading, mark)
        if before is None or (before.label, before.note) != (reading.label, reading.note):
            bus = self._bus
            bus.publish(
                QuotaHeard(
                    bus.next_seq(),
                    self._clock.time(),
                    account.id,
                    reading.source,
                    reading.label,
                    reading.percent,
                    reading.note,
                )
            )


def without_sources(pool: PoolSpec, clock: Clock) -> Mapping[str, Watch]:  # noqa: ARG001 - a SourceFactory
    """No account has a source: every quota is the own count."""
    return {}
