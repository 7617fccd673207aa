"""Mistakes planted in the real objects: random lives find each of them, by the invariant that is meant to."""

from __future__ import annotations

import math

import pytest

from smartfallback.engine.placement import Placement
from smartfallback.engine.settlement import Settlement
from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.model.quota import QuotaEstimate
from smartfallback.policy.circuit import Circuit, Permit
from smartfallback.policy.circuit_probes import Probes
from smartfallback.policy.concurrency import ConcurrencyLimit
from smartfallback.policy.ledger_counts import CountingLedger
from smartfallback.policy.selection import Selection
from smartfallback.simulation.policy_world import InvariantViolated, live
from smartfallback.simulation.policy_world.__main__ import main

MOST_SCHEDULES = 200


def leaked_hold(monkeypatch):
    monkeypatch.setattr(CountingLedger, "release", lambda self, reservation, now: True)


def second_probe(monkeypatch):
    def room(self, now):
        return len(self.live) <= self.at_once

    monkeypatch.setattr(Probes, "room", room)


def late_result(monkeypatch):
    real = Circuit._failed

    def failed(self, permit, now, cause, slow):
        if permit.lease_until is None and self.state is not CircuitState.OPEN:
            permit.generation = self._counted
        real(self, permit, now, cause, slow)

    monkeypatch.setattr(Circuit, "_failed", failed)


def late_success(monkeypatch):
    real = Circuit.succeed

    def succeed(self, permit, now):
        if permit.lease_until is None:
            permit.generation = self._counted
        real(self, permit, now)

    monkeypatch.setattr(Circuit, "succeed", succeed)


def _pretending(monkeypatch, pretend):
    """Let the checks of an account see it otherwise than it is."""
    real = Placement._blocked

    def blocked(self, account, percent, now, wall):
        name, value = pretend(account)
        before = getattr(account, name)
        setattr(account, name, value)
        try:
            return real(self, account, percent, now, wall)
        finally:
            if getattr(account, name) is value:
                setattr(account, name, before)

    monkeypatch.setattr(Placement, "_blocked", blocked)


def drained_picked(monkeypatch):
    def admin(account):
        return "admin", AdminState.ACTIVE if account.admin is AdminState.DRAINED else account.admin

    _pretending(monkeypatch, admin)


def disabled_picked(monkeypatch):
    def admin(account):
        return "admin", AdminState.ACTIVE if account.admin is AdminState.DISABLED else account.admin

    _pretending(monkeypatch, admin)


def revoked_picked(monkeypatch):
    _pretending(monkeypatch, lambda account: ("attention", ""))


def one_too_many(monkeypatch):
    _pretending(monkeypatch, lambda account: ("in_flight", account.in_flight - 1))


def quota_unchecked(monkeypatch):
    real = CountingLedger.reserve

    def reserve(self, estimate, now, *, lease_s):
        for window in self._windows:
            window.cap = math.inf
        return real(self, estimate, now, lease_s=lease_s)

    monkeypatch.setattr(CountingLedger, "reserve", reserve)


def nothing_counted(monkeypatch):
    real = CountingLedger.settle
    monkeypatch.setattr(
        CountingLedger,
        "settle",
        lambda self, reservation, actual, now: real(self, reservation, QuotaEstimate(0, 0), now),
    )


def permit_kept(monkeypatch):
    monkeypatch.setattr(Circuit, "release", lambda self, permit, now: None)


def place_kept(monkeypatch):
    real = Settlement.given_up

    def given_up(self, grant, received):
        real(self, grant, received)
        grant.account.in_flight += 1

    monkeypatch.setattr(Settlement, "given_up", given_up)


def rest_ignored(monkeypatch):
    monkeypatch.setattr(Settlement, "_cool_down", lambda self, account, until, failure, now: None)


def open_circuit_asked(monkeypatch):
    acquire, admits = Circuit.acquire, Circuit.admits

    def acquire_anyway(self, now):
        if self.state is CircuitState.OPEN:
            self._admitted += 1
            return Permit(self.generation, now, None)
        return acquire(self, now)

    monkeypatch.setattr(Circuit, "acquire", acquire_anyway)
    monkeypatch.setattr(
        Circuit, "admits", lambda self, now: self.state is CircuitState.OPEN or admits(self, now)
    )


def alarm_lost(monkeypatch):
    monkeypatch.setattr(Placement, "_alarm", lambda self, account, when: None)


def turns_not_taken(monkeypatch):
    monkeypatch.setattr(Selection, "taken", lambda self, slot, now, session=None: None)


def never_probes(monkeypatch):
    real = Circuit._catch_up

    def catch_up(self, now):
        if self.state is not CircuitState.OPEN:
            real(self, now)

    monkeypatch.setattr(Circuit, "_catch_up", catch_up)


def raises(monkeypatch):
    def passed(self, now):
        raise ZeroDivisionError("a limit of 0")

    monkeypatch.setattr(ConcurrencyLimit, "passed", passed)


BUGS = [
    (leaked_hold, "no leaked hold"),
    (second_probe, "half-open probes"),
    (late_result, "late results"),
    (late_success, "late results"),
    (drained_picked, "standing"),
    (disabled_picked, "standing"),
    (revoked_picked, "standing"),
    (one_too_many, "concurrency cap"),
    (quota_unchecked, "hard limit"),
    (nothing_counted, "what is spent is counted"),
    (permit_kept, "no leaked permit"),
    (place_kept, "in flight"),
    (rest_ignored, "cooldown kept"),
    (open_circuit_asked, "open circuit"),
    (alarm_lost, "nobody starves"),
    (turns_not_taken, "nobody starves"),
    (never_probes, "progress"),
    (raises, "nothing raises"),
]


def found_by(most: int) -> InvariantViolated:
    for seed in range(most):
        try:
            live(seed)
        except InvariantViolated as violated:
            return violated
    raise AssertionError(f"not found within {most} schedules")


@pytest.mark.parametrize(("plant", "invariant"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_a_planted_bug_is_found_by_its_invariant(monkeypatch, plant, invariant):
    plant(monkeypatch)
    found = found_by(MOST_SCHEDULES)
    assert found.invariant == invariant, str(found)


def test_a_failing_seed_is_named_with_the_command_that_repeats_it(monkeypatch, capsys):
    one_too_many(monkeypatch)
    found = found_by(MOST_SCHEDULES)
    told = str(found)
    assert f"seed {found.seed}" in told
    assert f"python -m smartfallback.simulation.policy_world --seed {found.seed}" in told
    with pytest.raises(InvariantViolated) as again:
        live(found.seed, keep_trace=True)
    assert str(again.value) == told
    assert again.value.trace
    assert main(found.replay.split()[3:]) == 1
    assert told in capsys.readouterr().err


def test_the_command_line_tells_apart_well_violated_and_wrong(capsys):
    assert main(["--seed", "5", "--schedules", "2"]) == 0
    assert capsys.readouterr().out.count("trace ") == 2
    assert main(["--seed", "2", "--week", "--requests", "300"]) == 0
    assert main(["--seed", "x"]) == 2
    assert main(["--schedules", "0"]) == 2
