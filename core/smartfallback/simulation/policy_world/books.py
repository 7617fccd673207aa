"""The guard's own books: what it knows of accounts and circuits apart from what they say themselves."""

from __future__ import annotations

import math
from typing import NamedTuple

from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import AccountRuntime
from smartfallback.model.circuits import CircuitState
from smartfallback.policy.circuit import Circuit, Permit
from smartfallback.simulation.policy_world.tries import Try


class Violated(Exception):
    """An invariant does not hold.

    Attributes:
        invariant: Its name.
        detail: What was found.
    """

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class Meter:
    """One quota window as its provider would count it.

    Attributes:
        key: When the window begins anew, which tells it from the next.
        used: What was spent in it.
        error: By how much attempts have cost more than was estimated.
    """

    __slots__ = ("error", "key", "used")

    def __init__(self) -> None:
        self.key: float | None = None
        self.used = 0.0
        self.error = 0.0


class Watched:
    """What the guard itself knows of one account, apart from what the account says.

    Attributes:
        running: Its attempts.
        admin: What the operator has made of it; empty while it is active.
        attention: Its key was refused, and nobody has seen to that.
        rests_until: The end of the longest wait that was stated.
        meters: Of its quota windows.
        waited: So many choices have passed it over.
        eligible: It could have served at the last look, but was not offered.
    """

    __slots__ = (
        "admin",
        "attention",
        "eligible",
        "meters",
        "rests_until",
        "running",
        "waited",
    )

    def __init__(self, account: AccountRuntime) -> None:
        self.running: list[Try] = []
        self.admin = ""
        self.attention = False
        self.rests_until = -math.inf
        self.meters = [Meter() for _ in account.spec.quota]
        self.waited = 0
        self.eligible = False


class Standing(NamedTuple):
    """A circuit's state, as it told of it last."""

    state: CircuitState
    until: float | None
    rate_limit_test: bool


def ended(grant: Grant) -> bool:
    """Whether the reservation of ``grant`` has ended."""
    return grant.reservation.ended


def same_permits(circuit: Circuit, live: int) -> None:
    """The circuit has as many permits out as attempts use.

    Raises:
        Violated: It has not.
    """
    if circuit.live != live:
        raise Violated("no leaked permit", f"{circuit.target}: {circuit.live} permits out, {live} in use")


def permits_of(grant: Grant) -> list[tuple[Circuit, Permit]]:
    """The circuits that govern the attempt of ``grant``, with their permits."""
    permits = [
        (grant.account.circuit, grant.permit),
        (grant.pool.provider.circuit, grant.provider_permit),
    ]
    if grant.model_permit is not None:
        permits.append((grant.account.model_circuits[grant.model], grant.model_permit))
    return permits


def fingerprint_of(circuit: Circuit, now: float) -> tuple[object, ...]:
    """All of a circuit that a result can change."""
    numbers = circuit.statistics(now)
    return (
        circuit.state,
        circuit.generation,
        circuit.until,
        circuit.cause,
        numbers.calls,
        numbers.failures,
        numbers.slow,
        circuit.admits(now),
    )
