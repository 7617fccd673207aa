"""A circuit with its own time and a record of what it told."""

from __future__ import annotations

import random
from typing import Any

from smartfallback.model.circuits import CircuitScope, CircuitSettings, CircuitState, CircuitTarget
from smartfallback.policy.circuit import Circuit, CircuitChange, Permit

TARGET = CircuitTarget(CircuitScope.ACCOUNT, "ag-1")


class Rig:
    """Holds ``now`` and passes it on; keeps every change in ``changes``."""

    def __init__(self, seed: int = 1, now: float = 1000.0, **settings: Any) -> None:
        self.now = now
        self.changes: list[CircuitChange] = []
        self.settings = CircuitSettings(**settings)
        self.circuit = Circuit(
            TARGET, self.settings, rng=random.Random(seed), now=now, on_change=self.changes.append
        )

    @property
    def state(self) -> CircuitState:
        return self.circuit.state

    @property
    def path(self) -> list[CircuitState]:
        return [change.new for change in self.changes]

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def acquire(self) -> Permit:
        permit = self.circuit.acquire(self.now)
        if permit is None:
            raise AssertionError(f"not admitted: {self.circuit.rejection(self.now)}")
        return permit

    def rejects(self) -> bool:
        """Whether a call is turned away now (asked for real)."""
        return self.circuit.acquire(self.now) is None

    def succeed(self, times: int = 1, lasting: float = 0.0) -> None:
        for _ in range(times):
            permit = self.acquire()
            self.wait(lasting)
            self.circuit.succeed(permit, self.now)

    def fail(self, times: int = 1, cause: str = "503", lasting: float = 0.0) -> None:
        for _ in range(times):
            permit = self.acquire()
            self.wait(lasting)
            self.circuit.fail(permit, self.now, cause)

    def open(self) -> None:
        """Fail until it opens."""
        self.fail(self.settings.failure_threshold)

    def until_probing(self) -> None:
        """Let the break pass."""
        until = self.circuit.until
        if until is None:
            raise AssertionError(f"{self.state} has no end")
        self.now = until
        self.circuit.tick(self.now)
