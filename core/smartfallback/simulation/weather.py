"""Mild incidents that come and go by themselves, so that a demo has something to fall back from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from smartfallback.simulation.faults import Fault
from smartfallback.simulation.lab import Lab


@dataclass(frozen=True, slots=True)
class Incident:
    """One fault for a while. Several ``accounts`` get it together; none means the whole upstream."""

    title: str
    upstream: str
    fault: Fault
    duration_s: float
    accounts: tuple[str, ...] = ()


class Weather:
    """Lets incidents happen one after another, with quiet between them.

    It keeps away from places where somebody else has set a fault, and lifts only its own.
    Use it as an async context manager.

    Args:
        lab: Where they happen.
        rng: Draws incidents and the lengths of the quiet times.
        incidents: What may happen; each happens once before any happens again.
        quiet_s: Mean time between the end of one and the beginning of the next.
        first_after_s: When the first one begins.
        sleep: Waits for a number of seconds; tests hand in their own.

    Raises:
        ValueError: ``quiet_s`` is not above 0 or there are no incidents.
    """

    def __init__(
        self,
        lab: Lab,
        rng: Random,
        incidents: Sequence[Incident],
        *,
        quiet_s: float = 120.0,
        first_after_s: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not incidents:
            raise ValueError("weather needs at least one incident")
        self._lab = lab
        self._rng = rng
        self._incidents = tuple(incidents)
        self._first_after_s = first_after_s
        self._sleep = sleep
        self._enabled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._current: asyncio.Task[None] | None = None
        self.happening: Incident | None = None
        self.set_quiet(quiet_s)
        self.switch_on()

    async def __aenter__(self) -> Weather:
        self._task = asyncio.create_task(self._run(), name="smartfallback-weather")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the incident that is happening, and let no more happen. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def set_quiet(self, quiet_s: float) -> None:
        """Change the mean quiet time, from the next one on.

        Raises:
            ValueError: It is not above 0.
        """
        if not quiet_s > 0:
            raise ValueError(f"quiet_s must be above 0, not {quiet_s!r}")
        self._quiet_s = quiet_s

    @property
    def on(self) -> bool:
        """Whether incidents happen."""
        return self._enabled.is_set()

    def switch_on(self) -> None:
        """Let incidents happen."""
        self._enabled.set()

    def switch_off(self) -> None:
        """End the incident that is happening, and let none happen until :meth:`switch_on`."""
        self._enabled.clear()
        if self._current is not None:
            self._current.cancel()

    async def _run(self) -> None:
        await self._sleep(self._first_after_s)
        while True:
            for incident in self._rng.sample(self._incidents, len(self._incidents)):
                await self._enabled.wait()
                self._current = asyncio.create_task(self._happen(incident))
                try:
                    await asyncio.wait({self._current})
                finally:
                    self._current.cancel()
                    await asyncio.gather(self._current, return_exceptions=True)
                    self._current = None
                await self._sleep(self._quiet_s * self._rng.uniform(0.6, 1.4))

    async def _happen(self, incident: Incident) -> None:
        places: tuple[str | None, ...] = incident.accounts or (None,)
        taken = {(fault.upstream, fault.account) for fault in self._lab.faults}
        if any((incident.upstream, account) in taken for account in places):
            return
        active = [self._lab.set_fault(incident.upstream, incident.fault, account) for account in places]
        self.happening = incident
        try:
            await self._sleep(incident.duration_s)
        finally:
            self.happening = None
            for fault in active:
                self._lab.lift(fault)
