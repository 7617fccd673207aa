"""A stand-in for the server that instances share: the same words, in this process, for one instance.

It lets a rehearsal meet a store where none is installed. What an account's quota, facts and probes come
to is worked out as the scripts in ``state/redis_store/scripts/`` do it. What only matters between
instances is left out: leases of others never lapse, since there are no others, and nothing is ever lost.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from smartfallback.clock import Clock, SystemClock
from smartfallback.model.circuits import CircuitTarget
from smartfallback.model.sharing import (
    AccountReport,
    Change,
    CountBase,
    Fact,
    FactRule,
    FactWrite,
    Heartbeat,
    HoldRequest,
    InstanceView,
    ProbeReply,
    QuotaReply,
    SharedWindow,
    StoreKind,
    WindowReport,
)
from smartfallback.state.shared import StoreStatus

PLACE: Final = "a store in this process that stands in for Redis"
SLOTS: Final = "slots"
_EDGE: Final = 0.01
"""Windows are told apart by their times; clocks may differ by this share of a window's length."""
_ROUNDING: Final = 1e-12
"""Sums differ by this share, depending on their order."""
_MOST_ENDED: Final = 10_000
"""Reservations that are remembered as ended."""


@dataclass(frozen=True, slots=True)
class _Hold:
    ends_at: float
    instance: str
    amounts: Mapping[str, tuple[float, float]]
    """By key of the window: when that began, and how much of it is held."""


@dataclass(slots=True)
class _Account:
    windows: dict[str, SharedWindow] = field(default_factory=dict)
    holds: dict[str, _Hold] = field(default_factory=dict)
    ended: dict[str, None] = field(default_factory=dict)
    version: int = 0


class MemorySharedStore:
    """A :class:`~smartfallback.state.shared.SharedStore` in this process, for one instance and one loop.

    Args:
        clock: Its time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._epoch = secrets.token_hex(8)
        self._accounts: dict[str, _Account] = {}
        self._facts: dict[str, dict[str, Fact]] = {}
        self._probes: dict[CircuitTarget, dict[str, float]] = {}
        self._instances: dict[str, InstanceView] = {}
        self._hints: asyncio.Queue[Change] = asyncio.Queue()

    @property
    def kind(self) -> StoreKind:
        """It is no server."""
        return StoreKind.MEMORY

    @property
    def place(self) -> str:
        """What it is."""
        return PLACE

    @property
    def status(self) -> StoreStatus:
        """Always well: it can't be away from whoever asks it."""
        return StoreStatus(usable=True, reachable=True, degraded_since=None, trouble="", lag_s=0.0)

    @property
    def offset_s(self) -> float:
        """Its clock is this machine's."""
        return 0.0

    def on_change(self, listener: Callable[[StoreStatus], None]) -> None:
        """See :meth:`SharedStore.on_change`. It never changes."""

    async def start(self) -> None:
        """Nothing has to be connected."""

    async def aclose(self) -> None:
        """Nothing has to be ended."""

    # -- quota -----------------------------------------------------------------------------

    async def reserve(self, instance: str, hold: HoldRequest) -> QuotaReply:
        """See :meth:`SharedStore.reserve`."""
        account, now = self._account(hold.account), self._clock.time()
        self._end(account, hold.ended, now)
        if hold.ended:
            # What they have spent is counted in the same moment in which they hold nothing any more.
            self._take_in(account, hold.windows, instance, now)
        keys = [window.key for window in hold.windows]
        if hold.id in account.ended:
            return self._reply(hold.account, keys, now, "ended")
        if hold.id in account.holds:
            return self._reply(hold.account, keys, now)
        before = dict(account.windows)
        if not self._take_in(account, hold.windows, instance, now):
            account.windows = before
            return self._reply(hold.account, keys, now, "rolled")
        reason = self._refusal(account, instance, hold)
        if reason:
            account.windows = before
            return self._reply(hold.account, keys, now, reason)
        amounts = {
            key: (account.windows[key].started_at, amount)
            for key, amount in hold.amounts.items()
            if key in account.windows
        }
        account.holds[hold.id] = _Hold(now + hold.lease_s, instance, amounts)
        account.version += 1
        return self._reply(hold.account, keys, now)

    @staticmethod
    def _take_in(account: _Account, windows: Iterable[WindowReport], instance: str, now: float) -> bool:
        """Take in what is told of windows; False if one of them is another than is stored."""
        fits = True
        for told in windows:
            window, rolled = _place(account, told, now)
            fits = fits and not rolled
            if not rolled:
                account.windows[told.key] = _taken_in(window, told, instance)
        return fits

    def _refusal(self, account: _Account, instance: str, hold: HoldRequest) -> str:
        """Why a reservation can't be made; empty if it can."""
        places = account.windows.get(SLOTS)
        taken = len(account.holds) + (_slice(places, instance) if places else 0.0)
        if taken + 1 > hold.most_running:
            return f"{SLOTS}: {taken:g} of {hold.most_running} are taken"
        for told in hold.windows:
            amount = hold.amounts.get(told.key)
            if amount is None:
                continue
            window = account.windows[told.key]
            before = window.used + self._held_of(account, told.key)
            asked = before + told.held + amount
            if before >= told.cap or asked > told.cap * (1 + _ROUNDING):
                return f"{told.key}: {before:g} of {told.cap:g} is used or held"
            leased = _slice(window, instance)
            if leased > told.held:
                # Its own slice makes way, but for what runs on it without having been asked for.
                room = max(0.0, min(leased - told.held, told.cap - asked))
                spent = window.spent.get(instance, 0.0)
                account.windows[told.key] = _with_ceiling(window, instance, spent + told.held + room)
        return ""

    async def report(
        self,
        instance: str,
        reports: Sequence[AccountReport],
        *,
        lease_s: float,  # noqa: ARG002 - there is nobody to whom a slice could fall when its lease ends
    ) -> Sequence[QuotaReply]:
        """See :meth:`SharedStore.report`."""
        return [self._report(instance, report) for report in reports]

    def _report(self, instance: str, report: AccountReport) -> QuotaReply:
        account, now = self._account(report.account), self._clock.time()
        self._end(account, report.ended, now)
        for told in report.windows:
            window, rolled = _place(account, told, now)
            if rolled:
                continue
            window = _taken_in(window, told, instance)
            free = told.cap - window.used - self._held_of(account, told.key) - told.held
            ceiling = window.spent.get(instance, 0.0) + told.held + _grant(told, free)
            account.windows[told.key] = _with_ceiling(window, instance, max(ceiling, told.keeps))
        account.version += 1
        keys = [window.key for window in report.windows]
        return self._reply(report.account, [*keys, *report.also], now)

    def _account(self, name: str) -> _Account:
        return self._accounts.setdefault(name, _Account())

    @staticmethod
    def _end(account: _Account, ended: Iterable[str], now: float) -> None:
        overdue = [name for name, hold in account.holds.items() if hold.ends_at <= now]
        for name in (*ended, *overdue):
            account.holds.pop(name, None)
            account.ended[name] = None
        while len(account.ended) > _MOST_ENDED:
            del account.ended[next(iter(account.ended))]

    @staticmethod
    def _held(account: _Account, key: str) -> dict[str, float]:
        window, held = account.windows.get(key), dict[str, float]()
        for hold in account.holds.values():
            began, amount = hold.amounts.get(key, (0.0, 0.0))
            if amount and window is not None and began == window.started_at:
                held[hold.instance] = held.get(hold.instance, 0.0) + amount
        return held

    def _held_of(self, account: _Account, key: str) -> float:
        held = sum(self._held(account, key).values())
        return max(float(len(account.holds)), held) if key == SLOTS else held

    def _reply(self, name: str, keys: Iterable[str], now: float, reason: str = "") -> QuotaReply:
        account = self._accounts[name]
        windows = {
            key: replace(account.windows[key], held=self._held(account, key))
            for key in keys
            if key in account.windows
        }
        return QuotaReply(name, not reason, now, account.version, self._epoch, windows, reason)

    # -- facts -----------------------------------------------------------------------------

    async def write_facts(self, writes: Sequence[FactWrite]) -> Sequence[Fact]:
        """See :meth:`SharedStore.write_facts`."""
        held = []
        for write in writes:
            facts = self._facts.setdefault(write.subject, {})
            before = facts.get(write.name)
            facts[write.name] = _holds(before, write.fact, write.rule)
            held.append(facts[write.name])
            if facts[write.name] != before:
                self._hints.put_nowait(Change(write.subject, write.fact.by))
        return held

    async def read_facts(self, subjects: Collection[str]) -> Mapping[str, Mapping[str, Fact]]:
        """See :meth:`SharedStore.read_facts`."""
        return {subject: dict(self._facts.get(subject, {})) for subject in subjects}

    async def changes(self) -> AsyncGenerator[Change, None]:
        """See :meth:`SharedStore.changes`; for one listener."""
        yield Change("")
        while True:
            yield await self._hints.get()

    # -- probes and instances --------------------------------------------------------------

    async def take_probe(
        self,
        instance: str,  # noqa: ARG002 - the protocol names who asks; a probe's own id is enough here
        target: CircuitTarget,
        probe: str,
        *,
        at_once: int,
        lease_s: float,
    ) -> ProbeReply:
        """See :meth:`SharedStore.take_probe`."""
        now = self._clock.time()
        places = {name: ends for name, ends in self._probes.get(target, {}).items() if ends > now}
        self._probes[target] = places
        if probe not in places and len(places) >= at_once:
            return ProbeReply(granted=False, until=min(places.values()))
        return ProbeReply(granted=True, until=places.setdefault(probe, now + lease_s))

    async def drop_probe(self, target: CircuitTarget, probe: str) -> None:
        """See :meth:`SharedStore.drop_probe`."""
        self._probes.get(target, {}).pop(probe, None)

    async def heartbeat(self, instance: InstanceView) -> Heartbeat:
        """See :meth:`SharedStore.heartbeat`."""
        now, known = self._clock.time(), instance.id in self._instances
        self._instances[instance.id] = replace(instance, seen_at=now, here=True)
        return Heartbeat(now, known, tuple(self._instances.values()))

    async def leave(self, instance: str) -> None:
        """See :meth:`SharedStore.leave`."""
        self._instances.pop(instance, None)


def _place(account: _Account, told: WindowReport, now: float) -> tuple[SharedWindow, bool]:
    """The window that ``told`` is about, and whether it is another one than ``told`` is about."""
    window = account.windows.get(told.key)
    begun = SharedWindow(_tick(told.started_at), _tick(told.ends_at))
    if window is None or now >= window.ends_at:
        return (window or begun, True) if now >= told.ends_at else (begun, False)
    if math.isinf(told.ends_at):
        return window, False
    edge = max(0.0, min(1.0, (told.ends_at - told.started_at) * _EDGE))
    ahead = told.started_at >= window.ends_at - edge
    return window, told.ends_at <= window.started_at + edge or ahead


def _taken_in(window: SharedWindow, told: WindowReport, instance: str) -> SharedWindow:
    spent = dict(window.spent)
    if told.spent > spent.get(instance, 0.0):
        spent[instance] = told.spent
    base, ends_at = window.base, window.ends_at
    if told.base is not None and (base is None or told.base.read_at > base.read_at):
        base = CountBase(told.base.used, told.base.read_at, told.base.label, dict(told.base.mark))
        if math.isfinite(ends_at) and abs(told.ends_at - ends_at) > 1.0:
            ends_at = _tick(told.ends_at)  # a source that tells the count may tell the end
    return replace(window, spent=spent, base=base, ends_at=ends_at)


def _grant(told: WindowReport, free: float) -> float:
    """How much of ``free`` an instance that is alone gets: half of it, or all that it needs."""
    half = math.floor(free / 2 * 10_000) / 10_000
    grant = max(0.0, min(told.want, max(half, min(told.need, free))))
    return math.floor(grant + 1e-9) if told.key == SLOTS else grant


def _slice(window: SharedWindow, instance: str) -> float:
    """What an instance has leased and not spent."""
    return max(0.0, window.ceilings.get(instance, 0.0) - window.spent.get(instance, 0.0))


def _with_ceiling(window: SharedWindow, instance: str, ceiling: float) -> SharedWindow:
    ceilings = {name: each for name, each in window.ceilings.items() if name != instance}
    stands = ceiling > window.spent.get(instance, 0.0)
    return replace(window, ceilings={**ceilings, instance: ceiling} if stands else ceilings)


def _holds(before: Fact | None, told: Fact, rule: FactRule) -> Fact:
    """Which of two facts holds."""
    if before is None:
        return told
    if rule is FactRule.LATEST or (before.until is None and told.until is None):
        return before if (before.at, before.by) > (told.at, told.by) else told
    if told.until is None:  # a lift of what came about before it
        return told if told.at >= before.at else before
    if before.until is None:
        return told if told.at > before.at else before
    return before if (before.until, before.at) > (told.until, told.at) else told


def _tick(at: float) -> float:
    """A time as the scripts store it."""
    return round(at, 4) if math.isfinite(at) else at
