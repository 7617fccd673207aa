"""Carries what has to survive over a restart.

What changed is read from the roster every :data:`FLUSH_INTERVAL_S`, or sooner where a write takes long,
and handed to the store, which writes it elsewhere: no request waits for it, and a killed process loses
no more than its last second.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

from smartfallback.clock import Clock
from smartfallback.engine.account_states import AccountStates, without_secrets_in
from smartfallback.engine.bus import Bus
from smartfallback.engine.historian import Historian
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import CircuitFactory, ProviderRuntime, Roster
from smartfallback.engine.tie_keeper import TieKeeper
from smartfallback.model.events import StateNotice
from smartfallback.model.state import AccountState, CircuitRecord, SystemState
from smartfallback.state.base import StateStore

FLUSH_INTERVAL_S: Final = 0.5
"""From one look at what has changed to the next, at most; half a second is left for a busy machine."""
LOSS_S: Final = 0.9
"""What changes right after a look stands in the file so much later, as far as writes allow it."""
LEAST_PAUSE_S: Final = 0.1
LOAD_WAIT_S: Final = 3.0
"""How long the start waits for what was saved."""
CLOSE_WAIT_S: Final = 2.0
_AT_ONCE: Final = 25
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
        historian: Historian,
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._clock = clock
        self._bus = bus
        self._store = store
        self._states = AccountStates(placement, clock, make_circuit)
        self._ties = TieKeeper(roster, clock)
        self._queue = queue
        self._historian = historian
        self._notices: list[str] = []
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
                    await self._historian.exchange()
                    await self._queue.exchange()
                await self._store.aclose()
        self._tell()

    async def _restore_all(self) -> None:
        roster = self._roster
        saved = SystemState()
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                saved = await self._store.load(tuple(roster.accounts), tuple(roster.providers))
        except TimeoutError:
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
                self._states.restore(account, state, now, wall)
        self._placement.changed.clear()
        self._ties.restore(saved.ties)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOAD_WAIT_S):
                await self._historian.restore()

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        await self._queue.exchange()
        self._tell()
        pause_s = FLUSH_INTERVAL_S
        while True:
            await asyncio.sleep(pause_s)
            began = now()
            await self._save_changes()
            await self._historian.exchange()
            await self._queue.exchange()
            self._tell()
            # What changes right after this look waits for the end of it, for the pause and for the next.
            took_s = now() - began
            pause_s = min(FLUSH_INTERVAL_S - took_s, LOSS_S - 2 * took_s)
            pause_s = max(LEAST_PAUSE_S, pause_s)

    async def _save_changes(self) -> None:
        offset = self._clock.time() - self._clock.monotonic()
        if abs(offset - self._offset) > _CLOCK_STEP_S:
            # All ends keep their distance from now, so their epoch seconds have moved.
            self._offset = offset
            self._placement.changed.update(self._roster.accounts.values())
            self._circuits.clear()
        changed, self._placement.changed = self._placement.changed, set()
        try:
            accounts: dict[str, AccountState] = {}
            for count, account in enumerate(changed, 1):
                accounts[account.id] = self._states.captured(account, offset)
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        except BaseException:
            # Who is interrupted has handed nothing to the store yet.
            self._placement.changed |= changed
            raise
        providers, ties = self._changed_providers(offset), self._ties.changes()
        await self._store.save(SystemState(accounts, providers, ties))

    def _changed_providers(self, offset: float) -> dict[str, CircuitRecord | None]:
        changed: dict[str, CircuitRecord | None] = {}
        for name, provider in self._roster.providers.items():
            mark = _mark(provider)
            if self._circuits.get(name) != mark:
                self._circuits[name] = mark
                changed[name] = without_secrets_in((provider.kept or provider).circuit.record(offset))
        return changed

    def _tell(self) -> None:
        lost = self._historian.take_notice()
        notices = (*self._notices, *self._store.take_notices(), *([lost] if lost else ()))
        self._notices.clear()
        for notice in notices:
            self._bus.publish(StateNotice(self._bus.next_seq(), self._clock.time(), notice))


def _mark(provider: ProviderRuntime) -> object:
    """Differs whenever what is saved of the provider's circuit does."""
    circuit = (provider.kept or provider).circuit
    return circuit.state, circuit.since, circuit.until, circuit.cause
