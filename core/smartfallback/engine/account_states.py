"""An account as it is saved, and as it goes on from there after a restart.

Monotonic instants become epoch seconds on the way out and are rebuilt on the way in. Of an account in a
rehearsal, what was before it is saved, with the real use since.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Final

from smartfallback.clock import Clock
from smartfallback.engine.credentials import credentials_mark, without_secrets
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Block, CircuitFactory
from smartfallback.model.circuits import CircuitScope, CircuitTarget
from smartfallback.model.decisions import AdminState
from smartfallback.model.secrets import redact
from smartfallback.model.state import AccountState, AttentionState, CircuitRecord, HoldState, RestState

ATTENTION_KEPT_S: Final = 3_600.0
"""Older refusals of credentials are tried again at a restart: what was wrong may be mended elsewhere."""


class AccountStates:
    """Reads accounts into states, and brings them to where a state says that they were."""

    def __init__(self, placement: Placement, clock: Clock, make_circuit: CircuitFactory) -> None:
        self._placement = placement
        self._clock = clock
        self._make_circuit = make_circuit
        self._attention: dict[AccountRuntime, tuple[str, AttentionState]] = {}

    # -- out ---------------------------------------------------------------------------------

    def captured(self, account: AccountRuntime, offset: float) -> AccountState:
        """The account now; ``offset`` added to monotonic instants makes them epoch seconds."""
        now = self._clock.monotonic()
        standing = account.kept or account
        ledger = standing.ledger
        ledger.status(self._clock.time())  # one that is kept aside has not been looked at for a while
        rest = None
        if standing.cooldown_until is not None and standing.cooldown_until > now:
            rest = RestState(
                standing.cooldown_until + offset, without_secrets(standing.cooldown_reason, account)
            )
        wall = ledger.wall()
        circuits = {
            model: without_secrets_in(circuit.record(offset), account)
            for model, circuit in standing.model_circuits.items()
        }
        return AccountState(
            admin=standing.admin,
            admin_reason=without_secrets(standing.admin_reason, account),
            admin_at=standing.admin_at,
            attention=self._attention_of(account, standing.attention),
            cooldown=rest,
            wall=None if wall is None else replace(wall, reason=without_secrets(wall.reason, account)),
            windows=ledger.states(),
            circuit=without_secrets_in(standing.circuit.record(offset), account),
            model_rests={
                model: RestState(block.until + offset, without_secrets(block.reason, account))
                for model, block in standing.model_blocks.items()
                if block.until > now
            },
            model_circuits={model: record for model, record in circuits.items() if record is not None},
            last_used_at=standing.last_used_at,
            requests=standing.requests,
            failures=standing.failures,
            tokens=standing.tokens,
            throttle=None if standing.throttle is None else standing.throttle.record(offset),
            holds=self._holds(account, offset) if account.attempts else (),
        )

    def _holds(self, account: AccountRuntime, offset: float) -> tuple[HoldState, ...]:
        """What running attempts hold until the deadlines of their requests; later no hold is of use."""
        if not account.spec.quota and not account.ledger.states():
            return ()
        now, wall = asyncio.get_running_loop().time(), self._clock.time()
        holds = []
        for attempt in account.attempts:
            grant, left_s = attempt.grant, attempt.deadline - now
            if left_s > 0 and math.isfinite(left_s) and not grant.reservation.ended:
                estimate = grant.estimate
                holds.append(
                    HoldState(
                        estimate.tokens,
                        estimate.requests,
                        estimate.credits,
                        grant.permit.started_at + offset,
                        wall + left_s,
                    )
                )
        return tuple(holds)

    def _attention_of(self, account: AccountRuntime, message: str) -> AttentionState | None:
        if not message:
            self._attention.pop(account, None)
            return None
        known = self._attention.get(account)
        if known is None or known[0] != message:
            state = AttentionState(
                without_secrets(message, account), self._clock.time(), credentials_mark(account)
            )
            known = self._attention[account] = (message, state)
        return known[1]

    # -- in ----------------------------------------------------------------------------------

    def restore(self, account: AccountRuntime, saved: AccountState, now: float, wall: float) -> None:
        """Bring the account to where ``saved`` says that it was, and let the time act since then.

        Args:
            account: One that nobody has used yet.
            saved: Its state.
            now: Monotonic seconds.
            wall: Epoch seconds.
        """
        offset = wall - now
        # The answers that a draining account still gave ended with the process.
        draining = saved.admin is AdminState.DRAINING
        account.admin = AdminState.DRAINED if draining else saved.admin
        account.admin_reason = saved.admin_reason
        account.admin_at = saved.admin_at
        attention = saved.attention
        if (
            attention is not None
            and attention.credentials == credentials_mark(account)
            and wall - attention.since < ATTENTION_KEPT_S
        ):
            account.attention = attention.message
            self._attention[account] = (attention.message, attention)
        if saved.cooldown is not None and saved.cooldown.until > wall:
            account.cooldown_until = saved.cooldown.until - offset
            account.cooldown_reason = saved.cooldown.reason
        for model, rest in saved.model_rests.items():
            if rest.until > wall:
                account.model_blocks[model] = Block(rest.until - offset, rest.reason)
        if saved.circuit is not None:
            account.circuit.restore(saved.circuit, now, offset)
        for model, record in saved.model_circuits.items():
            target = CircuitTarget(CircuitScope.MODEL, f"{account.id}/{model}")
            circuit = self._make_circuit(target, account.pool.spec.account_circuit)
            circuit.restore(record, now, offset)
            account.model_circuits[model] = circuit
        account.ledger.restore(saved.windows, saved.wall, wall, saved.holds)
        account.status = account.ledger.status(wall)
        if saved.last_used_at is not None:
            account.last_used_at = min(wall, saved.last_used_at)
            account.last_used = account.last_used_at - offset
        account.requests = saved.requests
        account.failures = saved.failures
        account.tokens = saved.tokens
        if saved.throttle is not None:
            self._placement.throttles.restore(account, saved.throttle, now, offset)
        self._placement.roll(account, now)
        self._placement.watch_reset(account, now)
        for end in {hold.ends_at(wall) for hold in saved.holds if hold.until > wall}:
            self._placement.wake_at(account, end - offset)


def without_secrets_in(
    record: CircuitRecord | None, account: AccountRuntime | None = None
) -> CircuitRecord | None:
    """The record with a cause that tells no secret."""
    if record is None or not record.cause:
        return record
    cause = redact(record.cause) if account is None else without_secrets(record.cause, account)
    return record if cause == record.cause else replace(record, cause=cause)
