"""What instances tell each other of circuits: changes, never counts.

What an operator did, and what an upstream's own words say, is adopted at once. That a circuit opened
on what one instance met alone makes the others suspect it: one request, of one instance, tests
whether the same is to be seen from elsewhere, so that a broken network of one instance does not take
an account from all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from smartfallback.clock import Clock
from smartfallback.engine.roster import CircuitFactory, Roster
from smartfallback.engine.sharing.account_facts import Standing
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.secrets import redact
from smartfallback.model.sharing import Fact
from smartfallback.model.state import CircuitRecord
from smartfallback.policy.circuit import Circuit, CircuitChange
from smartfallback.state.codec import decode_circuit, encode_circuit
from smartfallback.state.json_fields import Fields, loaded

CIRCUIT = "circuit"
OF_MODEL = "circuit:"
"""And the model's name."""

_HELD = frozenset({CircuitState.FORCED_OPEN, CircuitState.DISABLED, CircuitState.OBSERVE_ONLY})


def place_of(target: CircuitTarget) -> tuple[str, str]:
    """The subject and the name under which a circuit is told of."""
    if target.scope is CircuitScope.PROVIDER:
        return f"provider:{target.name}", CIRCUIT
    account, _, model = target.name.partition("/")
    return f"account:{account}", OF_MODEL + model if target.scope is CircuitScope.MODEL else CIRCUIT


def target_of(subject: str, name: str) -> CircuitTarget | None:
    """The circuit that a fact is about; None for a fact about something else."""
    kind, _, subject_name = subject.partition(":")
    if kind == "provider":
        return CircuitTarget(CircuitScope.PROVIDER, subject_name) if name == CIRCUIT else None
    if name == CIRCUIT:
        return CircuitTarget(CircuitScope.ACCOUNT, subject_name)
    if name.startswith(OF_MODEL):
        return CircuitTarget(CircuitScope.MODEL, f"{subject_name}/{name.removeprefix(OF_MODEL)}")
    return None


class CircuitFacts:
    """Reads changes of circuits into facts, and sets circuits by the facts of others.

    Args:
        roster: The circuits.
        clock: Set by the store's clock.
        make_circuit: Makes the circuit of a model that another instance has met trouble with.
    """

    def __init__(self, roster: Roster, clock: Clock, make_circuit: CircuitFactory) -> None:
        self._roster = roster
        self._clock = clock
        self._make_circuit = make_circuit
        self._shared_breaks: set[CircuitTarget] = set()
        """Circuits that more than one instance has found to deserve their break."""

    def changed(self, change: CircuitChange) -> Standing | None:
        """What to tell the others of a change; None where there is nothing to tell."""
        target, new = change.target, change.new
        if new is CircuitState.CLOSED:
            self._shared_breaks.discard(target)
        if not change.news or change.old is new:
            return None
        confirmed = change.suspicion or target in self._shared_breaks
        if new is CircuitState.OPEN:
            if change.suspicion:
                self._shared_breaks.add(target)
        elif new is CircuitState.HALF_OPEN and not change.by_operator:
            # That a break is over each one sees for itself; that a limit is tested goes with the rest.
            return None
        return self._standing(target, change.by_operator, confirmed, change.cause)

    def held(self, target: CircuitTarget) -> Standing | None:
        """What to tell of a circuit that an operator holds; None for all others."""
        circuit = self._roster.circuit(target)
        if circuit is None or circuit.state not in _HELD:
            return None
        if circuit.state is circuit.settings.initial_state:
            return None
        return self._standing(target, by_operator=True, confirmed=True, cause=circuit.cause)

    def _standing(
        self, target: CircuitTarget, by_operator: bool, confirmed: bool, cause: str
    ) -> Standing | None:
        circuit = self._roster.circuit(target)
        if circuit is None:
            return None
        now = self._clock.monotonic()
        offset = self._clock.time() - now
        record = circuit.record(offset)
        if record is None:
            record = CircuitRecord(circuit.state, cause, circuit.since + offset)
        record = replace(record, cause=redact(record.cause))
        document: dict[str, Any] = {
            "record": json.loads(encode_circuit(record)),
            "by_operator": by_operator,
            "confirmed": confirmed,
        }
        return Standing(json.dumps(document, ensure_ascii=True, allow_nan=False))

    def adopt(self, target: CircuitTarget, fact: Fact, by: str) -> bool:
        """Let the circuit be as another instance's change calls for.

        Args:
            target: The circuit.
            fact: The change.
            by: The other instance, by name.

        Returns:
            Whether there is such a circuit.

        Raises:
            ValueError: The fact's value is not what an instance of this version writes.
        """
        document = loaded(fact.value)
        if document is None:
            return False
        fields = Fields(document)
        record = decode_circuit(json.dumps(fields.get("record")))
        if record is None:
            return False
        circuit = self._circuit(target, record)
        if circuit is None:
            return False
        now = self._clock.monotonic()
        offset = self._clock.time() - now
        cause = f"{record.cause} (seen by {by})" if record.cause else f"told by {by}"
        if fields.flag("by_operator"):
            circuit.adopt_hold(record, now, offset)
        elif record.state is CircuitState.OPEN and record.until is not None:
            confirmed = fields.flag("confirmed")
            if confirmed:
                self._shared_breaks.add(target)
            circuit.adopt_open(
                record.until - offset, cause, now, confirmed=confirmed, break_s=record.last_break_s
            )
        elif record.state is CircuitState.CLOSED:
            circuit.adopt_closed(cause, now)
        return True

    def _circuit(self, target: CircuitTarget, record: CircuitRecord) -> Circuit | None:
        known = self._roster.circuit(target)
        if known is not None or target.scope is not CircuitScope.MODEL:
            return known
        name, _, model = target.name.partition("/")
        account = self._roster.accounts.get(name)
        if account is None or record.state is CircuitState.CLOSED:
            return None
        circuit = account.model_circuits[model] = self._make_circuit(
            target, account.pool.spec.account_circuit
        )
        return circuit
