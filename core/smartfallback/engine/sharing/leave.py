"""What one request asks of the shared store before its attempt may begin: a slice, or a reservation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import AccountRuntime
from smartfallback.engine.sharing.quota_share import MOST_ENDED, QuotaShare
from smartfallback.engine.sharing.standing import SLOTS, add, ledger_of
from smartfallback.model.sharing import HoldRequest, QuotaReply
from smartfallback.policy.ledger import Reservation
from smartfallback.state.shared import SharedStore, StoreLostError

ASK_LIMIT_S: Final = 0.05
"""How long a request waits on the shared store at most."""
HOLD_SLACK_S: Final = 10.0
"""How much longer than its request may last a reservation is held in the shared store."""
SILENT_S: Final = 0.5
"""A store that requests can't wait for, and that has not been heard for so long, is taken for lost."""
AMPLE: Final = 0.5
"""With more than this share of a quota left, a few requests need not wait for leave."""
FRESH_S: Final = 0.2
"""What was heard so lately can't have changed much."""
_PARTS_WHILE_SLOW: Final = 8


class Leave:
    """Asks for what single attempts need of shared quotas, and decides where nobody can be asked.

    Args:
        share: This instance's side of all quotas.
        clock: Set by the store's clock.
        store: What the instances share.
        instance: This one's id.
    """

    def __init__(self, share: QuotaShare, clock: Clock, store: SharedStore, instance: str) -> None:
        self._share = share
        self._clock = clock
        self._store = store
        self._instance = instance
        self._holds = 0
        self._unasked: dict[Reservation, Mapping[str, float]] = {}

    @contextlib.contextmanager
    def asking(self, grant: Grant) -> Iterator[None]:
        """While this lasts, what ``grant`` holds is no use of a slice: it waits for leave."""
        asking = self._share.standing(grant.account).asking
        amounts = ledger_of(grant.account).amounts(grant.estimate)
        add(asking, amounts, 1.0)
        try:
            yield
        finally:
            add(asking, amounts, -1.0)

    def no_place(self, account: AccountRuntime) -> None:
        """The store has found all places taken, though that was not known here: those wait in line."""
        self._share.starves(account)
        self._share.give_places(account, max(0, account.in_flight - 1))

    async def top_up(self, grant: Grant) -> bool:
        """Lease what ``grant`` needs, waiting for at most :data:`ASK_LIMIT_S`.

        Returns:
            Whether it may go on. Where the store can't be used that is decided by the local share; so it
            is, by a small one, where its reply doesn't come in time and most of the quota was left.
        """
        account = grant.account
        standing = self._share.standing(account)
        heard_at = standing.exchanged_at
        demand = standing.demand
        demand.expect(ledger_of(account).amounts(grant.estimate))
        if self._reachable():
            demand.waiting += 1
            try:
                async with asyncio.timeout(ASK_LIMIT_S):
                    # One reply may have been on its way before this one's need was known.
                    for _ in range(2):
                        await self._share.next_reply(account)
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
        standing = self._share.standing(account)
        ledger = ledger_of(account)
        self._holds += 1
        name = f"{self._instance}:{self._holds}"
        amounts = ledger.amounts(grant.estimate)
        standing.demand.expect(amounts)
        ended = tuple(standing.ended)[:MOST_ENDED]
        windows = self._share.windows(account, {})
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
            self._share.ended(account, name)
            return name, None
        except BaseException:
            self._share.ended(account, name)
            raise
        if not reply.lost:
            for each in ended:
                standing.ended.pop(each, None)
        self._share.take_over(account, standing, reply)
        return name, reply

    def go_without(self, grant: Grant) -> bool:
        """Let ``grant`` run without a reservation in the store, which can't be asked (strict).

        It spends from the slice that is leased for this, or else from this instance's share of what was
        left when the store was heard last.

        Returns:
            Whether it may; :meth:`went_without` is due at its end.
        """
        if not self._covers(grant):
            if self._is_silent(grant.account):
                self._widen(grant.account)
            elif self._is_ample(grant.account):
                # It is told of long before others can have spent the rest.
                self._widen(grant.account, 1 / 8)
        if not self._covers(grant):
            return False
        amounts = {**ledger_of(grant.account).amounts(grant.estimate), SLOTS: 1.0}
        self._unasked[grant.reservation] = amounts
        add(self._share.standing(grant.account).unasked, amounts, 1.0)
        self._share.look_at(grant.account)
        return True

    def has_place(self, account: AccountRuntime) -> bool:
        """Whether the latest attempt has a place although the store can't be asked for one (strict).

        Each instance has its share of them, as far as others were not known to have taken more; a small
        part of it while the store is only slow, since others may still be given theirs by it.
        """
        parts = max(1, self._share.instances) * (1 if self._is_silent(account) else _PARTS_WHILE_SLOW)
        share = min(max(1, account.spec.max_concurrency // parts), account.slots)
        if account.in_flight <= share:
            return True
        self._share.starves(account)
        self._share.give_places(account, share)
        return False

    def went_without(self, grant: Grant) -> None:
        """The attempt of ``grant`` has ended; changes nothing where it had a reservation in the store."""
        if self._unasked:
            amounts = self._unasked.pop(grant.reservation, None)
            if amounts is not None:
                add(self._share.standing(grant.account).unasked, amounts, -1.0)
                self._share.look_at(grant.account)

    async def restored(self, account: AccountRuntime, limit_s: float) -> None:
        """Wait for at most so long until the store has been told again what it has lost of the account."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._share.next_reply(account)

    def _is_silent(self, account: AccountRuntime) -> bool:
        """Whether the store is lost, or seems to be; one that is merely slow still leases slices."""
        if not self._reachable():
            return True
        return not self._store.status.usable and self._unheard_s(account) > SILENT_S

    def _is_ample(self, account: AccountRuntime) -> bool:
        """Whether most of the quota was left a moment ago."""
        return ledger_of(account).left_share > AMPLE and self._unheard_s(account) < FRESH_S

    def _covers(self, grant: Grant) -> bool:
        ledger = ledger_of(grant.account)
        return ledger.covers(ledger.amounts(grant.estimate), self._share.standing(grant.account).asking)

    def _widen(self, account: AccountRuntime, part: float = 0.5) -> None:
        """Go on without leave: by a part of a fair share while the store is only slow, else by all of it."""
        shares = self._share.instances / (part if self._reachable() else 1.0)
        ledger_of(account).widen(shares, self._share.standing(account).asking)

    def _reachable(self) -> bool:
        return self._store.status.reachable

    def _unheard_s(self, account: AccountRuntime) -> float:
        return self._clock.monotonic() - self._share.standing(account).exchanged_at
