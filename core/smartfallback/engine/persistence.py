"""Carries the state of accounts and circuits over a restart.

What changed is read from the roster at most every :data:`FLUSH_INTERVAL_S` and handed to the store,
which writes it elsewhere: no request waits for it, and a killed process loses no more than that.
Monotonic instants become epoch seconds on the way out and are rebuilt on the way in. Of an account or
provider in a rehearsal, what was before it is saved, with the real use since.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Final, Protocol

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.credentials import credentials_mark, without_secrets
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Block, CircuitFactory, ProviderRuntime, Roster
from smartfallback.model.circuits import CircuitScope, CircuitTarget
from smartfallback.model.decisions import AdminState
from smartfallback.model.events import StateNotice
from smartfallback.model.secrets import redact
from smartfallback.model.state import AccountState, AttentionState, CircuitRecord, RestState, SystemState
from smartfallback.state.base import StateStore

FLUSH_INTERVAL_S: Final = 0.8
"""Below one second, so that with the time of the write a killed process loses no more than that."""
LOAD_WAIT_S: Final = 3.0
"""How long the start waits for what was saved."""
CLOSE_WAIT_S: Final = 2.0
ATTENTION_KEPT_S: Final = 3_600.0
"""Older refusals of credentials are tried again at a restart: what was wrong may be mended elsewhere."""
_AT_ONCE: Final = 100
"""Accounts read in one turn of the loop."""
_CLOCK_STEP_S: Final = 0.25


class Exchange(Protocol):
    """What else is kept in the store, in step with the rest."""

    async def exchange(self) -> None:
        """Bring the store up to date, and take from it what is new there."""
        ...


class Persistence:
    """Restores a roster from a store, and keeps the store up to date with it and with the queue."""

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        clock: Clock,
        bus: Bus,
        store: StateStore,
        *,
        make_circuit: CircuitFactory,
        queue: Exchange,
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._clock = clock
        self._bus = bus
        self._store = store
        self._make_circuit = make_circuit
        self._queue = queue
        self._notices: list[str] = []
        self._attention: dict[AccountRuntime, tuple[str, AttentionState]] = {}
        self._circuits: dict[str, object] = {
            name: _mark(provider) for name, provider in roster.providers.items()
        }
        self._offset = clock.time() - clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bring the roster to where the store says that it was, before the first request; then save."""
        try:
            await self._restore_all()
        except BaseException:
            await self.aclose()
            raise
        self._task = asyncio.create_task(self._run(), name="smartfallback-persistence")

    async def aclose(self) -> None:
        """Save what is left and close the store; one that hangs is given up. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                if task is not None:
                    await self._save_changes()
                    await self._queue.exchange()
                await self._store.aclose()
        self._tell()

    async def _restore_all(self) -> None:
        roster = self._roster
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                saved = await self._store.load(tuple(roster.accounts), tuple(roster.providers))
        except TimeoutError:
            saved = SystemState()
            self._notices.append(
                f"The saved state could not be read within {LOAD_WAIT_S:g} s: all accounts start anew."
            )
        now, wall = self._clock.monotonic(), self._clock.time()
        for name, provider in roster.providers.items():
            record = saved.providers.get(name)
            if record is not None:
                provider.circuit.restore(record, now, wall - now)
            self._circuits[name] = _mark(provider)
        for name, account in roster.accounts.items():
            state = saved.accounts.get(name)
            if state is not None:
                self._restore(account, state, now, wall)
        self._placement.changed.clear()

    async def _run(self) -> None:
        while True:
            await self._queue.exchange()
            self._tell()
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self._save_changes()

    async def _save_changes(self) -> None:
        offset = self._clock.time() - self._clock.monotonic()
        if abs(offset - self._offset) > _CLOCK_STEP_S:
            # All ends keep their distance from now, so their epoch seconds have moved.
            self._offset = offset
            self._placement.changed.update(self._roster.accounts.values())
            self._circuits.clear()
        changed, self._placement.changed = self._placement.changed, set()
        accounts: dict[str, AccountState] = {}
        for count, account in enumerate(changed):
            if count % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            accounts[account.id] = self._captured(account, offset)
        await self._store.save(SystemState(accounts, self._changed_providers(offset)))

    def _changed_providers(self, offset: float) -> dict[str, CircuitRecord | None]:
        changed: dict[str, CircuitRecord | None] = {}
        for name, provider in self._roster.providers.items():
            mark = _mark(provider)
            if self._circuits.get(name) != mark:
                self._circuits[name] = mark
                changed[name] = _redacted((provider.kept or provider).circuit.record(offset))
        return changed

    def _tell(self) -> None:
        notices = (*self._notices, *self._store.take_notices())
        self._notices.clear()
        for notice in notices:
            self._bus.publish(StateNotice(self._bus.next_seq(), self._clock.time(), notice))

    # -- out ---------------------------------------------------------------------------------

    def _captured(self, account: AccountRuntime, offset: float) -> AccountState:
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
            model: _redacted(circuit.record(offset), account)
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
            circuit=_redacted(standing.circuit.record(offset), account),
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
        )

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

    def _restore(self, account: AccountRuntime, saved: AccountState, now: float, wall: float) -> None:
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
        account.ledger.restore(saved.windows, saved.wall, wall)
        account.status = account.ledger.status(wall)
        if saved.last_used_at is not None:
            account.last_used_at = min(wall, saved.last_used_at)
            account.last_used = account.last_used_at - offset
        account.requests = saved.requests
        account.failures = saved.failures
        account.tokens = saved.tokens
        self._placement.roll(account, now)
        self._placement.watch_reset(account, now)


def _mark(provider: ProviderRuntime) -> object:
    """Differs whenever what is saved of the provider's circuit does."""
    circuit = (provider.kept or provider).circuit
    return circuit.state, circuit.since, circuit.until, circuit.cause


def _redacted(record: CircuitRecord | None, account: AccountRuntime | None = None) -> CircuitRecord | None:
    if record is None or not record.cause:
        return record
    cause = redact(record.cause) if account is None else without_secrets(record.cause, account)
    return record if cause == record.cause else replace(record, cause=cause)
