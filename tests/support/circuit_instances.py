"""Several instances with a circuit each for one target, which tell each other what SPEC section 9 shares.

Windows stay local. A circuit that opened on what its own instance met makes the others suspect; a
test that failed is certain for all, and so are the failed probes that follow it; one that succeeded
clears the others. Probes need one of the places that all share.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from smartfallback.model.circuits import CircuitSettings, CircuitState
from smartfallback.model.state import CircuitRecord
from smartfallback.policy.circuit import Circuit, CircuitChange, Permit
from support.circuits import TARGET

OFFSET = 2.0**30
"""Epoch seconds minus monotonic ones."""
LOOK_S = 1.0
"""A probe elsewhere may end without a verdict: so soon is asked again."""

Message = Callable[[Circuit, float], None]


@dataclass
class Running:
    """A call that was admitted."""

    instance: int
    permit: Permit


class Instances:
    """They share one clock; messages arrive at once, or wait in ``posted`` where ``late``.

    Attributes:
        down: Instances from which the target can't be reached.
        failed: Failed calls by instance.
        refused: Calls turned away, by instance.
        suspicions: Tests that were asked for, by instance.
        changes: All that the circuits told, by instance.
        probes: Ends of the leases of running probes, by permit.
        most_probes: The most that ever ran at once.
        posted: Messages that have not arrived, with their receivers.
    """

    def __init__(self, count: int, settings: CircuitSettings, *, seed: int = 1, late: bool = False) -> None:
        self.now = 1000.0
        self.settings = settings
        self.late = late
        self.down: set[int] = set()
        self.failed: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.suspicions: Counter[int] = Counter()
        self.changes: dict[int, list[CircuitChange]] = {number: [] for number in range(count)}
        self.probes: dict[Permit, float] = {}
        self.most_probes = 0
        self.posted: list[tuple[int, Message]] = []
        self._certain: set[int] = set()
        """Instances that know of a break which more than one has found to be deserved."""
        self.circuits = [
            Circuit(TARGET, settings, rng=random.Random(seed + number), now=self.now, on_change=listener)
            for number, listener in ((number, self._listener(number)) for number in range(count))
        ]

    @property
    def states(self) -> list[CircuitState]:
        return [circuit.state for circuit in self.circuits]

    def all_are(self, state: CircuitState) -> bool:
        return all(each is state for each in self.states)

    # Calls

    def begin(self, instance: int) -> Running | None:
        """Ask the circuit, and for a probe all others, as the engine does."""
        circuit = self.circuits[instance]
        permit = circuit.acquire(self.now)
        if permit is None:
            self.refused[instance] += 1
            return None
        if permit.probe:
            self.probes = {probe: end for probe, end in self.probes.items() if end > self.now}
            if len(self.probes) >= circuit.probes_at_once:
                circuit.release(permit, self.now)
                circuit.probe_elsewhere(min(*self.probes.values(), self.now + LOOK_S), self.now)
                self.refused[instance] += 1
                return None
            self.probes[permit] = self.now + self.settings.probe_lease_s
            self.most_probes = max(self.most_probes, len(self.probes))
        return Running(instance, permit)

    def end(self, running: Running, *, fails: bool | None = None) -> None:
        """The call ends as its instance can reach the target, or as said."""
        circuit = self.circuits[running.instance]
        if running.instance in self.down if fails is None else fails:
            self.failed[running.instance] += 1
            circuit.fail(running.permit, self.now, "503")
        else:
            circuit.succeed(running.permit, self.now)
        self.probes.pop(running.permit, None)

    def call(self, instance: int, *, fails: bool | None = None) -> bool:
        """One call from begin to end; whether it was admitted."""
        running = self.begin(instance)
        if running is None:
            return False
        self.end(running, fails=fails)
        return True

    def until_probing(self) -> None:
        """Let the longest break pass."""
        ends = [circuit.until for circuit in self.circuits if circuit.until is not None]
        self.now = max(ends, default=self.now)
        for circuit in self.circuits:
            circuit.tick(self.now)

    # Messages

    def deliver(self, index: int, *, keep: bool = False) -> None:
        """Let a posted message arrive, whatever came before it; ``keep`` lets it arrive again."""
        receiver, message = self.posted[index]
        if not keep:
            self.posted.pop(index)
        message(self.circuits[receiver], self.now)

    def _listener(self, number: int) -> Callable[[CircuitChange], None]:
        return lambda change: self._changed(number, change)

    def _changed(self, sender: int, change: CircuitChange) -> None:
        self.changes[sender].append(change)
        if change.suspicion and change.new is CircuitState.HALF_OPEN:
            self.suspicions[sender] += 1
        if change.new is CircuitState.CLOSED:
            self._certain.discard(sender)
        message = self._message(sender, change) if change.news else None
        if message is None:
            return
        for receiver in range(len(self.changes)):
            if receiver == sender:
                continue
            self.posted.append((receiver, message))
            if not self.late:
                self.deliver(len(self.posted) - 1)

    def _message(self, sender: int, change: CircuitChange) -> Message | None:
        cause = f"{change.cause} (seen by {sender})"
        record = self.circuits[sender].record(OFFSET)
        if change.by_operator:
            word = record or CircuitRecord(change.new, change.cause, change.at + OFFSET)
            return lambda circuit, now: circuit.adopt_hold(word, now, OFFSET)
        if change.new is CircuitState.CLOSED:
            return lambda circuit, now: circuit.adopt_closed(cause, now)
        if change.new is not CircuitState.OPEN or change.until is None:
            return None
        until = change.until
        break_s = None if record is None else record.last_break_s
        certain = change.suspicion or sender in self._certain
        if certain:
            self._certain.update(range(len(self.changes)))
        return lambda circuit, now: circuit.adopt_open(until, cause, now, confirmed=certain, break_s=break_s)
