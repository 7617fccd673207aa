"""What instances tell each other of circuits: changes, never counts.

What an operator did, and what an upstream's own words say, is adopted at once. That a circuit opened
on what one instance met alone makes the others suspect it: one request, of one instance, tests
whether the same is to be seen from elsewhere, so that a broken network of one instance does not take
an account from all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from smartfallback.clock import Clock
from smartfallback.engine.credentials import without_secrets
from smartfallback.engine.roster import AccountRuntime, CircuitFactory, Roster
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

_HELD: Final = frozenset({CircuitState.FORCED_OPEN, CircuitState.DISABLED, CircuitState.OBSERVE_ONLY})
_MOST_SHARERS: Final = 1_000
"""Accounts of a provider whose keys are looked for in what it said."""

_Hold = tuple[CircuitState, float | None, str]
"""The state that an operator has put a circuit into, when that ends, and why."""


def place_of(target: CircuitTarget) -> tuple[str, str]:
    """The subject and the name under which a circuit is told of."""
    if target.scope is CircuitScope.PROVIDER:
        return f"provider:{target.name}", CIRCUIT
    if target.scope is CircuitScope.ACCOUNT:
        return f"account:{target.name}", CIRCUIT
    account, _, model = target.name.partition("/")
    return f"account:{account}", OF_MODEL + model


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
        self._holds: dict[CircuitTarget, _Hold] = {}
        """How operators hold circuits, as far as the others were told of it, or told it."""

    def changed(self, change: CircuitChange) -> Standing | None:
        """What to tell the others of a change; None where there is nothing to tell."""
        target, new = change.target, change.new
        if new is CircuitState.CLOSED:
            self._shared_breaks.discard(target)
        if not change.news or change.old is new:
            return None
        self._note_hold(target)
        confirmed = change.suspicion or target in self._shared_breaks
        if new is CircuitState.OPEN:
            if change.suspicion:
                self._shared_breaks.add(target)
        elif new is CircuitState.HALF_OPEN and not change.by_operator:
            # That a break is over each one sees for itself; that a limit is tested goes with the rest.
            return None
        return self._standing(target, by_operator=change.by_operator, confirmed=confirmed)

    def held(self, target: CircuitTarget) -> Standing | None:
        """What to tell of a circuit that an operator holds, since when it is held; None for all others."""
        if self._note_hold(target) is None:
            return None
        circuit = self._in_force(target)
        standing = self._standing(target, by_operator=True, confirmed=True)
        if circuit is None or standing is None:
            return None
        return standing._replace(at=circuit.since + self._clock.time() - self._clock.monotonic())

    def rehold(self, target: CircuitTarget) -> Standing | None:
        """What to tell of an operator's word that was no change of state, or came during a rehearsal.

        None where there is nothing to tell.
        """
        before = self._holds.get(target)
        hold = self._note_hold(target)
        if hold == before:
            return None
        circuit = self._in_force(target)
        if hold is None and (circuit is None or circuit.state is not CircuitState.CLOSED):
            return None  # it has ended by itself
        return self._standing(target, by_operator=True, confirmed=True)

    def _note_hold(self, target: CircuitTarget) -> _Hold | None:
        circuit = self._in_force(target)
        if circuit is None or circuit.state not in _HELD or circuit.state is circuit.settings.initial_state:
            self._holds.pop(target, None)
            return None
        hold = self._holds[target] = circuit.state, circuit.until, circuit.cause
        return hold

    def _in_force(self, target: CircuitTarget) -> Circuit | None:
        """The circuit; during a rehearsal as it will be afterwards."""
        if target.scope is CircuitScope.PROVIDER:
            provider = self._roster.providers.get(target.name)
            return None if provider is None else (provider.kept or provider).circuit
        account = self._account_of(target)
        if account is None:
            return None
        source = account.kept or account
        if target.scope is CircuitScope.ACCOUNT:
            return source.circuit
        return source.model_circuits.get(target.name.partition("/")[2])

    def _account_of(self, target: CircuitTarget) -> AccountRuntime | None:
        of_model = target.scope is CircuitScope.MODEL
        return self._roster.accounts.get(target.name.partition("/")[0] if of_model else target.name)

    def _standing(self, target: CircuitTarget, *, by_operator: bool, confirmed: bool) -> Standing | None:
        circuit = self._in_force(target)
        if circuit is None:
            return None
        now = self._clock.monotonic()
        offset = self._clock.time() - now
        record = circuit.record(offset)
        if record is None:
            record = CircuitRecord(circuit.state, circuit.cause, circuit.since + offset)
        record = replace(record, cause=self._without_secrets(record.cause, target))
        document: dict[str, Any] = {
            "record": json.loads(encode_circuit(record)),
            "by_operator": by_operator,
            "confirmed": confirmed,
        }
        return Standing(json.dumps(document, ensure_ascii=True, allow_nan=False))

    def _without_secrets(self, cause: str, target: CircuitTarget) -> str:
        account = self._account_of(target) if target.scope is not CircuitScope.PROVIDER else None
        if account is not None:
            return without_secrets(cause, account)
        sharers = islice(self._roster.accounts_of(target), _MOST_SHARERS)
        return redact(cause, [each.spec.api_key for each in sharers if each.spec.api_key is not None])

    def adopt(self, target: CircuitTarget, fact: Fact, by: str) -> None:
        """Let the circuit be as another instance's change calls for.

        Args:
            target: The circuit.
            fact: The change.
            by: The other instance, by name.

        Raises:
            ValueError: The fact's value is not what an instance of this version writes.
        """
        document = loaded(fact.value)
        if document is None:
            return
        fields = Fields(document)
        record = decode_circuit(json.dumps(fields.get("record")))
        circuit = None if record is None else self._circuit(target, record)
        if record is None or circuit is None:
            return
        now = self._clock.monotonic()
        offset = self._clock.time() - now
        cause = f"{record.cause} (seen by {by})" if record.cause else f"told by {by}"
        if fields.flag("by_operator"):
            circuit.adopt_hold(record, now, offset)
        elif record.state is CircuitState.OPEN and record.until is not None:
            confirmed = fields.flag("confirmed")
            circuit.adopt_open(
                record.until - offset, cause, now, confirmed=confirmed, break_s=record.last_break_s
            )
            if confirmed and circuit.state is CircuitState.OPEN:
                self._shared_breaks.add(target)
        elif record.state is CircuitState.CLOSED:
            circuit.adopt_closed(cause, now)
        self._note_hold(target)

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
