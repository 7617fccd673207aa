"""Whether an attempt that is granted here may begin, as far as other instances have a say in it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.grant import Grant
from smartfallback.engine.settlement import Settlement
from smartfallback.engine.sharing.leave import ASK_LIMIT_S, Leave
from smartfallback.engine.sharing.quota_share import QuotaShare
from smartfallback.engine.sharing.standing import SLOTS, ledger_of, shares
from smartfallback.model.circuits import CircuitScope
from smartfallback.model.decisions import Skip, SkipReason
from smartfallback.model.sharing import QuotaReply
from smartfallback.policy.circuit import Circuit, Permit
from smartfallback.policy.ledger import Reservation
from smartfallback.state.shared import SharedStore, StoreLostError

_LEAST_LEASE_S: Final = 0.001
_PROBE_LOOK_S: Final = 1.0
"""How long another's probe is trusted to run before it is asked for again: it may end without a word."""
_MOST_DROPPED: Final = 1_000
"""Places of more probes end with their leases: while the store is away, nobody hears that they are free."""


class Admission:
    """Asks for what a grant needs beyond what this instance may give by itself.

    Args:
        quota: This instance's side of all quotas.
        settlement: Tells of the circuits of a grant.
        clock: Set by the store's clock.
        store: What the instances share.
        instance: This one's id.
    """

    def __init__(
        self, quota: QuotaShare, settlement: Settlement, clock: Clock, store: SharedStore, instance: str
    ) -> None:
        self._quota = quota
        self._leave = Leave(quota, clock, store, instance)
        self._settlement = settlement
        self._clock = clock
        self._store = store
        self._instance = instance
        self._leased = quota.leased
        self._probes_begun = 0
        self._holds: dict[Reservation, str] = {}
        self._probes: dict[Permit, tuple[Circuit, str]] = {}
        self.dropped: deque[tuple[Circuit, str]] = deque(maxlen=_MOST_DROPPED)
        """Probes that have ended here and whose places are to be given back."""

    def admits(self, grant: Grant) -> bool:
        """Whether ``grant`` needs nobody's leave. Costs next to nothing."""
        account = grant.account
        if not shares(account):
            return True
        if not self._leased or ledger_of(account).overdrawn:
            return False
        if (
            grant.permit.lease_until is None
            and grant.provider_permit.lease_until is None
            and (grant.model_permit is None or grant.model_permit.lease_until is None)
        ):
            return True
        return not self._shared_probes(grant)

    async def ask(self, grant: Grant, timeout_s: float) -> Skip | None:
        """Ask for what ``grant`` needs, for at most the request budget each.

        Args:
            grant: The grant; the caller gives it back if it is refused, and when this is cancelled.
            timeout_s: How long its request may last.

        Returns:
            Why it may not begin; None when it may.
        """
        with self._leave.asking(grant):
            refusal = await self._ask_for_probes(grant)
            if refusal is None:
                refusal = await self._ask_for_quota(grant, timeout_s)
        return refusal

    def left(self, grant: Grant) -> None:
        """The attempt of ``grant`` has ended, or never began."""
        name = self._holds.pop(grant.reservation, None) if self._holds else None
        if name is not None:
            self._quota.ended(grant.account, name)
        self._leave.went_without(grant)
        if self._probes:
            for permit in (grant.permit, grant.provider_permit, grant.model_permit):
                probe = None if permit is None else self._probes.pop(permit, None)
                if probe is not None:
                    self.dropped.append(probe)
                    self._quota.wake.set()

    async def _ask_for_quota(self, grant: Grant, timeout_s: float) -> Skip | None:
        account = grant.account
        if self._leased:
            if not ledger_of(account).overdrawn or await self._leave.top_up(grant):
                return None
            return self._skip(grant, "what is left of its quota is leased to other instances")
        name, reply = await self._reserve(grant, timeout_s)
        if reply is None or reply.lost:
            if not self._leave.has_place(account):
                return self._skip(
                    grant,
                    "its share of the places is taken while the others can't be asked",
                    SkipReason.CONCURRENCY,
                )
            if not self._leave.go_without(grant):
                return self._skip(grant, "its share of the quota is used up while the others can't be asked")
            return None
        if reply.granted:
            self._holds[grant.reservation] = name
            return None
        if reply.reason.startswith(SLOTS):
            self._leave.no_place(account)
            return self._skip(grant, reply.reason, SkipReason.CONCURRENCY)
        return self._skip(grant, reply.reason)

    async def _reserve(self, grant: Grant, timeout_s: float) -> tuple[str, QuotaReply | None]:
        """Reserve; once more where a window had just rolled, or where the store has lost what it knew.

        Another try begins only while the request has waited for less than half of its budget.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            name, reply = await self._leave.reserve(grant, timeout_s)
            if reply is None or not (reply.lost or reply.reason == "rolled"):
                return name, reply
            if reply.lost:
                await self._leave.restored(grant.account, ASK_LIMIT_S / 2)
            if loop.time() - began >= ASK_LIMIT_S / 2:
                return name, reply

    def _shared_probes(self, grant: Grant) -> list[tuple[Circuit, Permit, float]]:
        """The probes of a grant whose places all instances share, with the ends of their leases.

        What is tried out in a rehearsal is nobody else's business.
        """
        kept = {
            CircuitScope.PROVIDER: grant.pool.provider.kept is not None,
            CircuitScope.ACCOUNT: grant.account.kept is not None,
            CircuitScope.MODEL: grant.account.kept is not None,
        }
        return [
            (circuit, permit, permit.lease_until)
            for circuit, permit in self._settlement.permits(grant)
            if permit.lease_until is not None and not kept[circuit.target.scope]
        ]

    async def _ask_for_probes(self, grant: Grant) -> Skip | None:
        for circuit, permit, lease_until in self._shared_probes(grant):
            self._probes_begun += 1
            name = f"{self._instance}:{self._probes_begun}"
            lease_s = max(_LEAST_LEASE_S, lease_until - self._clock.monotonic())
            try:
                reply = await self._store.take_probe(
                    self._instance,
                    circuit.target,
                    name,
                    at_once=circuit.probes_at_once,
                    lease_s=lease_s,
                )
            except StoreLostError:
                # It may hold a place there now, which nobody else should wait for.
                self.dropped.append((circuit, name))
                continue
            except BaseException:
                self.dropped.append((circuit, name))
                raise
            if not reply.granted:
                now = self._clock.monotonic()
                until = min(now + reply.until - self._clock.time(), now + _PROBE_LOOK_S)
                circuit.probe_elsewhere(max(until, now + 0.05), now)
                return self._skip(grant, "another instance probes its circuit", SkipReason.CIRCUIT)
            self._probes[permit] = (circuit, name)
        return None

    @staticmethod
    def _skip(grant: Grant, detail: str, reason: SkipReason = SkipReason.NO_ROOM) -> Skip:
        return Skip(grant.account.id, grant.pool.name, reason, detail)
