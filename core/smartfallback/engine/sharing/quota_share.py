"""Quotas over all instances: what is used here is reported, what is used elsewhere is learnt.

Reports are cumulative, so that one which is sent twice, late or never does no harm, and the next one
puts right what the store has lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Roster
from smartfallback.engine.sharing.standing import SLOTS, Standing, ledger_of, shares
from smartfallback.model.sharing import (
    AccountReport,
    QuotaReply,
    SharingMode,
    WindowReport,
)
from smartfallback.policy.ledger_sharing import Appetite
from smartfallback.state.shared import SharedStore, StoreLostError

LEASE_S: Final = 10.0
"""How long a slice stands without a word from its instance; then it counts as spent."""
RENEW_S: Final = 1.0
"""How often the slices of an account are renewed at least."""
IDLE_RENEW_S: Final = 3.0
"""The same where nothing happens, and only places are leased."""
POLL_S: Final = 1.0
"""How often what others used is looked at, while that means at most so many accounts a second:"""
MOST_POLLED_PER_S: Final = 200
_AT_ONCE: Final = 200
"""Accounts in one exchange."""
MOST_ENDED: Final = 1_000
"""Ids of ended reservations sent in one report; the others follow."""


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
        self._standings: dict[AccountRuntime, Standing] = {}
        self._dirty: dict[AccountRuntime, None] = {}
        self._leasing: dict[AccountRuntime, None] = {}
        self._waiting: dict[AccountRuntime, asyncio.Future[None]] = {}
        self._next_polled = 0
        self._polled_at = clock.monotonic()
        self._line = line
        self._starved: dict[AccountRuntime, None] = {}
        """Accounts that could serve more if other instances held fewer of their places."""
        self._taking_over = False
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

    # -- what happens here ---------------------------------------------------------------------

    def note(self, account: AccountRuntime) -> None:
        """The account has changed here; it is reported with the next exchange."""
        if not self._taking_over and shares(account):
            self._dirty[account] = None
            if account.in_flight >= account.slots:
                self._starved[account] = None
                if self._line():
                    self.wake.set()

    def starves(self, account: AccountRuntime) -> None:
        """The account could serve more if other instances held fewer of its places."""
        self._starved[account] = None

    def ended(self, account: AccountRuntime, hold: str) -> None:
        """A reservation has ended here, or its fate in the store is not known: it is ended there."""
        self.standing(account).ended[hold] = None
        self._dirty[account] = None

    # -- in the background ---------------------------------------------------------------------

    def due(self, now: float) -> list[AccountRuntime]:
        """The accounts to exchange now: those that changed, whose lease is to be renewed, and a few more."""
        found = dict.fromkeys(self._waiting)
        found.update(self._dirty)
        found.update(self._starved)
        for account in self._leasing:
            standing = self.standing(account)
            renew_s = RENEW_S if standing.demand.is_busy(now) else IDLE_RENEW_S
            if now - standing.exchanged_at >= renew_s:
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
            if now - self.standing(account).exchanged_at >= POLL_S / 2:
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
            standing = self.standing(account)
            sent[account] = tuple(standing.ended)[:MOST_ENDED]
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
            standing = self.standing(account)
            standing.lost = reply.lost
            if reply.lost:
                lost.append(account)
                continue
            for name in ended:
                standing.ended.pop(name, None)
            if standing.ended:
                self._dirty[account] = None
            self.take_over(account, standing, reply)
        return lost

    # -- inside --------------------------------------------------------------------------------

    def standing(self, account: AccountRuntime) -> Standing:
        """How the account stands with the store."""
        standing = self._standings.get(account)
        if standing is None:
            standing = self._standings[account] = Standing()
        return standing

    async def next_reply(self, account: AccountRuntime) -> None:
        """Wait until the store has answered for the account, or can't be waited for any more."""
        future = self._waiting.get(account)
        if future is None:
            future = self._waiting[account] = asyncio.get_running_loop().create_future()
        self.wake.set()
        await asyncio.shield(future)

    def _report(
        self, account: AccountRuntime, standing: Standing, ended: tuple[str, ...], leaving: bool
    ) -> AccountReport:
        wants = {}
        if not leaving:
            wants = standing.demand.wants(ledger_of(account).spent(), self._clock.monotonic())
        windows = self._keep(account, self.windows(account, wants, leaving=leaving), wants)
        return AccountReport(
            account=account.id,
            windows=windows,
            ended=ended,
            version=standing.version,
            epoch=standing.epoch,
            restore=standing.windows if standing.lost else None,
            also=ledger_of(account).not_begun,
        )

    def windows(
        self, account: AccountRuntime, wants: Mapping[str, Appetite], *, leaving: bool = False
    ) -> tuple[WindowReport, ...]:
        """This instance's side of all windows, and of concurrency: a window that never ends.

        In strict mode what is held is known to the store; slices are only for when it can't be asked.
        """
        standing = self.standing(account)
        now, ledger = self._clock.time(), ledger_of(account)
        most, running = account.spec.max_concurrency, account.in_flight
        if not self.leased:
            unasked = standing.unasked
            slots = WindowReport(SLOTS, 0.0, math.inf, most, 0.0, unasked.get(SLOTS, 0.0))
            return (*ledger.reports(now, wants, unasked), slots)
        want = need = 0.0
        if not leaving:
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
                self.give_places(account, keeps)
        asking = self.standing(account).asking
        return (*ledger_of(account).keep(quotas, wants, asking, widened=self.leased), slots)

    def give_places(self, account: AccountRuntime, slots: float) -> None:
        """Let so many attempts run on the account here."""
        account.slots = slots
        self._taking_over = True
        try:
            self._placement.place(account, self._clock.monotonic())
        finally:
            self._taking_over = False

    def take_over(self, account: AccountRuntime, standing: Standing, reply: QuotaReply) -> None:
        """Take over what the store says of an account."""
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
