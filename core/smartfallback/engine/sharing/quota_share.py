"""Quotas over all instances: what is used here is reported, what is used elsewhere is learnt.

Reports are cumulative, so that one which is sent twice, late or never does no harm, and the next one
puts right what the store has lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.grant import Grant
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Roster
from smartfallback.engine.sharing.appetite import Demand
from smartfallback.model.sharing import (
    AccountReport,
    HoldRequest,
    QuotaReply,
    SharedWindow,
    SharingMode,
    WindowReport,
)
from smartfallback.policy.ledger import AccountLedger
from smartfallback.policy.ledger_sharing import Appetite
from smartfallback.state.shared import SharedStore, StoreLostError

LEASE_S: Final = 10.0
"""How long a slice stands without a word from its instance; then it counts as spent."""
RENEW_S: Final = 1.0
"""How often the slices of an account are renewed at least."""
POLL_S: Final = 1.0
"""How often what others used is looked at, while that means at most so many accounts a second:"""
MOST_POLLED_PER_S: Final = 400
HOLD_SLACK_S: Final = 10.0
"""How much longer than its request may last a reservation is held in the shared store."""
SILENT_S: Final = 0.5
"""A store that requests can't wait for, and that has not been heard for so long, is taken for lost."""
AMPLE: Final = 0.5
"""With more than this share of a quota left, a few requests need not wait for leave."""
FRESH_S: Final = 0.2
"""What was heard so lately can't have changed much."""
SLOTS: Final = "slots"
ASK_LIMIT_S: Final = 0.05
"""How long a request waits on the shared store at most."""
_AT_ONCE: Final = 200
"""Accounts in one exchange."""
_MOST_ENDED: Final = 1_000
"""Ids of ended reservations sent in one report; the others follow."""


class _Standing:
    """What is known of one account's exchange with the store."""

    __slots__ = (
        "asking",
        "demand",
        "ended",
        "epoch",
        "exchanged_at",
        "lost",
        "unasked",
        "version",
        "windows",
    )

    def __init__(self) -> None:
        self.windows: Mapping[str, SharedWindow] = {}
        self.version = 0
        self.epoch = ""
        self.ended: dict[str, None] = {}
        self.demand = Demand()
        self.exchanged_at = -math.inf
        self.lost = False
        self.asking: dict[str, float] = {}
        """What is held here for requests that wait for a slice (leased), by key of the window."""
        self.unasked: dict[str, float] = {}
        """What runs here without a reservation in the store (strict), by key of the window."""


class QuotaShare:
    """One instance's side of all shared quotas. On one event loop.

    Args:
        roster: The accounts.
        placement: Places an account whose quota others have changed.
        clock: Set by the store's clock.
        store: What the instances share.
        instance: This one's id.
        mode: Whether slices are leased or each reservation is asked for.
        line: How many requests wait for a place on any account.
    """

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        clock: Clock,
        store: SharedStore,
        instance: str,
        mode: SharingMode,
        line: Callable[[], int],
    ) -> None:
        self._accounts = tuple(account for account in roster.accounts.values() if shares(account))
        self._placement = placement
        self._clock = clock
        self._store = store
        self._instance = instance
        self.leased = mode is SharingMode.LEASED
        self._standings: dict[AccountRuntime, _Standing] = {}
        self._dirty: dict[AccountRuntime, None] = {}
        self._leasing: dict[AccountRuntime, None] = {}
        self._waiting: dict[AccountRuntime, asyncio.Future[None]] = {}
        self._next_polled = 0
        self._polled_at = clock.monotonic()
        self._line = line
        self._starved: dict[AccountRuntime, None] = {}
        """Accounts that could serve more if other instances held fewer of their places."""
        self._taking_over = False
        self._holds = 0
        self.wake = asyncio.Event()
        """Set when an exchange is due at once."""
        self.instances = 1
        """How many instances there are, as far as is known."""
        for account in self._accounts:
            ledger_of(account).share(instance)

    @property
    def unsent(self) -> int:
        """Accounts of which the store does not know the latest."""
        return len(self._dirty)

    # -- on a request's way --------------------------------------------------------------------

    def note(self, account: AccountRuntime) -> None:
        """The account has changed here; it is reported with the next exchange."""
        if not self._taking_over and shares(account):
            self._dirty[account] = None
            if account.in_flight >= account.slots:
                self._starved[account] = None
                if self._line():
                    self.wake.set()

    @contextlib.contextmanager
    def asking(self, grant: Grant) -> Iterator[None]:
        """While this lasts, what ``grant`` holds is no use of a slice: it waits for leave."""
        asking = self._standing(grant.account).asking
        amounts = ledger_of(grant.account).amounts(grant.estimate)
        _add(asking, amounts, 1.0)
        try:
            yield
        finally:
            _add(asking, amounts, -1.0)

    def no_place(self, account: AccountRuntime) -> None:
        """The store has found all places taken, though that was not known here: those wait in line."""
        self._starved[account] = None
        self._give_places(account, max(0, account.in_flight - 1))

    async def top_up(self, grant: Grant) -> bool:
        """Lease what ``grant`` needs, waiting for at most :data:`ASK_LIMIT_S`.

        Returns:
            Whether it may go on. Where the store can't be used that is decided by the local share; so it
            is, by a small one, where its reply doesn't come in time and most of the quota was left.
        """
        account = grant.account
        standing = self._standing(account)
        heard_at = standing.exchanged_at
        demand = standing.demand
        demand.expect(ledger_of(account).amounts(grant.estimate))
        if self._reachable():
            demand.waiting += 1
            try:
                async with asyncio.timeout(ASK_LIMIT_S):
                    # One reply may have been on its way before this one's need was known.
                    for _ in range(2):
                        await self._next_reply(account)
                        if self._covers(grant):
                            return True
                        if not self._reachable():
                            break
            except TimeoutError:
                pass
            finally:
                demand.waiting -= 1
        if not self._store.status.usable:
            self._widen(account)
        elif standing.exchanged_at == heard_at and ledger_of(account).left_share > AMPLE:
            self._widen(account, 1 / 8)
        return self._covers(grant)

    async def reserve(self, grant: Grant, lease_s: float) -> tuple[str, QuotaReply | None]:
        """Ask for ``grant``'s reservation in the shared store (strict).

        Returns:
            The reservation's id there, and the reply; None when the store could not be asked, so that
            it may have been made or not.
        """
        account = grant.account
        standing = self._standing(account)
        ledger = ledger_of(account)
        self._holds += 1
        name = f"{self._instance}:{self._holds}"
        amounts = ledger.amounts(grant.estimate)
        standing.demand.expect(amounts)
        ended = tuple(standing.ended)[:_MOST_ENDED]
        windows = self._windows(account, standing, {})
        hold = HoldRequest(
            id=name,
            account=account.id,
            amounts={**amounts, SLOTS: 1.0},
            windows=windows,
            lease_s=lease_s + HOLD_SLACK_S,
            most_running=account.spec.max_concurrency,
            version=standing.version,
            epoch=standing.epoch,
            ended=ended,
        )
        try:
            reply = await self._store.reserve(self._instance, hold)
        except StoreLostError:
            self.ended(account, name)
            return name, None
        except BaseException:
            self.ended(account, name)
            raise
        if not reply.lost:
            for each in ended:
                standing.ended.pop(each, None)
        self._take_over(account, standing, reply)
        return name, reply

    def go_without(self, grant: Grant) -> bool:
        """Let ``grant`` run without a reservation in the store, which can't be asked (strict).

        It spends from the slice that is leased for this, or else from this instance's share of what was
        left when the store was heard last.

        Returns:
            Whether it may; then :meth:`went_without` is due at its end.
        """
        if not self._covers(grant):
            if self._is_silent(grant.account):
                self._widen(grant.account)
            elif self._is_ample(grant.account):
                # It is told of long before others can have spent the rest.
                self._widen(grant.account, 1 / 8)
        if not self._covers(grant):
            return False
        self._count_unasked(grant, 1.0)
        return True

    def has_place(self, account: AccountRuntime) -> bool:
        """Whether the latest attempt has a place although the store can't be asked for one (strict).

        Each instance has its share of them, as far as others were not known to have taken more.
        """
        most = account.spec.max_concurrency
        share = min(max(1, most // max(1, self.instances)), account.slots)
        if account.in_flight <= share:
            return True
        self._starved[account] = None
        self._give_places(account, share)
        return False

    def went_without(self, grant: Grant) -> None:
        """The attempt of ``grant`` has ended, which had no reservation in the store."""
        self._count_unasked(grant, -1.0)

    def _count_unasked(self, grant: Grant, sign: float) -> None:
        amounts = {**ledger_of(grant.account).amounts(grant.estimate), SLOTS: 1.0}
        _add(self._standing(grant.account).unasked, amounts, sign)
        self._dirty[grant.account] = None

    async def restored(self, account: AccountRuntime) -> None:
        """Wait for a moment until the store has been told again what it has lost of the account."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_LIMIT_S):
                await self._next_reply(account)

    def ended(self, account: AccountRuntime, hold: str) -> None:
        """A reservation has ended here, or its fate in the store is not known: it is ended there."""
        self._standing(account).ended[hold] = None
        self._dirty[account] = None

    # -- in the background ---------------------------------------------------------------------

    def due(self, now: float) -> list[AccountRuntime]:
        """The accounts to exchange now: those that changed, whose lease is to be renewed, and a few more."""
        found = dict.fromkeys(self._waiting)
        found.update(self._dirty)
        found.update(self._starved)
        for account in self._leasing:
            if now - self._standing(account).exchanged_at >= RENEW_S:
                found[account] = None
        found.update(dict.fromkeys(self._polled(now)))
        return list(found)

    def _polled(self, now: float) -> Iterable[AccountRuntime]:
        total = len(self._accounts)
        share = min(total / POLL_S, MOST_POLLED_PER_S) * (now - self._polled_at)
        count = min(total, int(share))
        if count:
            self._polled_at = now
        for _ in range(count):
            account = self._accounts[self._next_polled % total]
            self._next_polled += 1
            if now - self._standing(account).exchanged_at >= POLL_S / 2:
                yield account

    def look_at(self, account: AccountRuntime) -> None:
        """Others have news of the account: it is among the next to be exchanged."""
        self._dirty[account] = None
        self.wake.set()

    def all_known(self) -> list[AccountRuntime]:
        """The accounts of which the store was told anything."""
        return list(self._standings)

    async def exchange_all(self) -> None:
        """Exchange all accounts, some at a time.

        Raises:
            StoreLostError: The store can't be asked.
        """
        for start in range(0, len(self._accounts), _AT_ONCE):
            await self.exchange(self._accounts[start : start + _AT_ONCE])

    async def exchange(self, accounts: Collection[AccountRuntime], *, leaving: bool = False) -> None:
        """Report these accounts and take over what the store says of them.

        Raises:
            StoreLostError: It can't be asked; what was to be reported is reported later.
        """
        again = await self._exchange(accounts, leaving) if accounts else []
        if again:
            await self._exchange(again, leaving)

    async def _exchange(self, accounts: Collection[AccountRuntime], leaving: bool) -> list[AccountRuntime]:
        sent: dict[AccountRuntime, tuple[str, ...]] = {}
        reports = []
        for account in accounts:
            self._dirty.pop(account, None)
            standing = self._standing(account)
            sent[account] = tuple(standing.ended)[:_MOST_ENDED]
            reports.append(self._report(account, standing, sent[account], leaving))
        asked = {account: self._waiting.pop(account) for account in accounts if account in self._waiting}
        try:
            replies = await self._store.report(self._instance, reports, lease_s=LEASE_S)
        except StoreLostError:
            self._dirty.update(dict.fromkeys(accounts))
            raise
        finally:
            for future in asked.values():
                if not future.done():
                    future.set_result(None)
        lost = []
        for (account, ended), reply in zip(sent.items(), replies, strict=True):
            standing = self._standing(account)
            standing.lost = reply.lost
            if reply.lost:
                lost.append(account)
                continue
            for name in ended:
                standing.ended.pop(name, None)
            if standing.ended:
                self._dirty[account] = None
            self._take_over(account, standing, reply)
        return lost

    # -- inside --------------------------------------------------------------------------------

    def _is_silent(self, account: AccountRuntime) -> bool:
        """Whether the store is lost, or seems to be; one that is merely slow still leases slices."""
        if not self._reachable():
            return True
        return not self._store.status.usable and self._unheard_s(account) > SILENT_S

    def _is_ample(self, account: AccountRuntime) -> bool:
        """Whether most of the quota was left a moment ago."""
        return ledger_of(account).left_share > AMPLE and self._unheard_s(account) < FRESH_S

    def _unheard_s(self, account: AccountRuntime) -> float:
        return self._clock.monotonic() - self._standing(account).exchanged_at

    def _covers(self, grant: Grant) -> bool:
        ledger = ledger_of(grant.account)
        return ledger.covers(ledger.amounts(grant.estimate), self._standing(grant.account).asking)

    def _widen(self, account: AccountRuntime, part: float = 0.5) -> None:
        """Go on without leave: by a part of a fair share while the store is only slow, else by all of it."""
        shares = self.instances / (part if self._reachable() else 1.0)
        ledger_of(account).widen(shares, self._standing(account).asking)

    def _reachable(self) -> bool:
        return self._store.status.reachable

    def _standing(self, account: AccountRuntime) -> _Standing:
        standing = self._standings.get(account)
        if standing is None:
            standing = self._standings[account] = _Standing()
        return standing

    async def _next_reply(self, account: AccountRuntime) -> None:
        future = self._waiting.get(account)
        if future is None:
            future = self._waiting[account] = asyncio.get_running_loop().create_future()
        self.wake.set()
        await asyncio.shield(future)

    def _report(
        self, account: AccountRuntime, standing: _Standing, ended: tuple[str, ...], leaving: bool
    ) -> AccountReport:
        wants = {}
        if not leaving:
            wants = standing.demand.wants(ledger_of(account).spent(), self._clock.monotonic())
        windows = self._keep(account, self._windows(account, standing, wants), wants)
        return AccountReport(
            account=account.id,
            windows=windows,
            ended=ended,
            version=standing.version,
            epoch=standing.epoch,
            restore=standing.windows if standing.lost else None,
            also=ledger_of(account).not_begun,
        )

    def _windows(
        self, account: AccountRuntime, standing: _Standing, wants: Mapping[str, Appetite]
    ) -> tuple[WindowReport, ...]:
        """This instance's side of all windows, and of concurrency: a window that never ends.

        In strict mode what is held is known to the store; slices are only for when it can't be asked.
        """
        now, ledger = self._clock.time(), ledger_of(account)
        most, running = account.spec.max_concurrency, account.in_flight
        if not self.leased:
            unasked = standing.unasked
            slots = WindowReport(SLOTS, 0.0, math.inf, most, 0.0, unasked.get(SLOTS, 0.0))
            return (*ledger.reports(now, wants, unasked), slots)
        line = self._line() if running >= account.slots else 0
        want, need = standing.demand.wanted_slots(
            running, most, self.instances, line=line, now=self._clock.monotonic()
        )
        return (
            *ledger.reports(now, wants, ledger.held(standing.asking)),
            WindowReport(SLOTS, 0.0, math.inf, most, 0.0, running, want, need),
        )

    def _keep(
        self, account: AccountRuntime, windows: tuple[WindowReport, ...], wants: Mapping[str, Appetite]
    ) -> tuple[WindowReport, ...]:
        """Until the reply is here, no more is spent than is asked for; that much is told as kept."""
        *quotas, slots = windows
        if self.leased:
            keeps = min(account.slots, slots.held + slots.want)
            slots = replace(slots, keeps=keeps)
            if keeps < account.slots:
                self._give_places(account, keeps)
        asking = self._standing(account).asking
        return (*ledger_of(account).keep(quotas, wants, asking, widened=self.leased), slots)

    def _give_places(self, account: AccountRuntime, slots: float) -> None:
        account.slots = slots
        self._taking_over = True
        try:
            self._placement.place(account, self._clock.monotonic())
        finally:
            self._taking_over = False

    def _take_over(self, account: AccountRuntime, standing: _Standing, reply: QuotaReply) -> None:
        if reply.lost:
            self._dirty[account] = None
            standing.lost = True
            self.wake.set()
            return
        if reply.epoch == standing.epoch and reply.version < standing.version:
            return  # a later one has overtaken it
        standing.version, standing.epoch = reply.version, reply.epoch
        standing.windows = reply.windows
        now = self._clock.monotonic()
        standing.exchanged_at = now
        changed = ledger_of(account).mirror(reply.windows, self._clock.time())
        if any(self._instance in each.ceilings for each in reply.windows.values()):
            self._leasing[account] = None
        else:
            self._leasing.pop(account, None)
        slots = self._slots_here(account, reply)
        if account.in_flight < slots:
            self._starved.pop(account, None)
        if slots != account.slots:
            account.slots = slots
            changed = True
        if changed:
            self._taking_over = True
            try:
                self._placement.roll(account, now)
            finally:
                self._taking_over = False

    def _slots_here(self, account: AccountRuntime, reply: QuotaReply) -> float:
        shared = reply.windows.get(SLOTS)
        if shared is None:
            return account.slots
        if self.leased:
            return max(0, math.floor(shared.ceilings.get(self._instance, 0.0) + 1e-6))
        return max(0.0, account.spec.max_concurrency - shared.elsewhere(self._instance))

    def let_go(self) -> None:
        """The store can't be waited for any more: whoever does goes on with what there is."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(None)

    @property
    def waits(self) -> bool:
        """Whether a request waits for a slice."""
        return bool(self._waiting)

    def go_on_alone(self) -> None:
        """The store can't be reached: places that were not leased are shared out, as quotas are."""
        for account in self._accounts:
            share = math.ceil(account.spec.max_concurrency / max(1, self.instances))
            if account.slots < share:
                account.slots = share
                self._placement.place(account, self._clock.monotonic())


def _add(sums: dict[str, float], amounts: Mapping[str, float], sign: float) -> None:
    for key, amount in amounts.items():
        left = sums.get(key, 0.0) + sign * amount
        if left > 1e-9:
            sums[key] = left
        else:
            sums.pop(key, None)


def shares(account: AccountRuntime) -> bool:
    """Whether other instances have a part in the account; a model on this machine is this machine's."""
    return not account.pool.is_local


def ledger_of(account: AccountRuntime) -> AccountLedger:
    """The ledger of what is really used, also while a rehearsal has put a layer over it."""
    return account.ledger if account.kept is None else account.kept.ledger
