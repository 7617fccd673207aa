"""The invariants: what must hold at each admission, at each end of an attempt, and after each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import AccountRuntime, Roster
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.commands import (
    Command,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    ResetCircuit,
    Resume,
    SetStrategy,
)
from smartfallback.model.decisions import AdminState, Rule
from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.quota import QuotaEstimate
from smartfallback.policy.circuit import Circuit, CircuitChange, Permit
from smartfallback.simulation.policy_world.books import (
    Standing,
    Violated,
    Watched,
    ended,
    fingerprint_of,
    permits_of,
    same_permits,
)
from smartfallback.simulation.policy_world.timeline import VirtualClock
from smartfallback.simulation.policy_world.tries import Try

_CUT_OFF: Final = frozenset({CircuitState.OPEN, CircuitState.FORCED_OPEN})
_IN_TURN: Final = frozenset({Rule.NEXT_IN_TURN, Rule.LEAST_RECENTLY_USED})
_BY_SCORE: Final = frozenset({Rule.BEST_OF_TOP, Rule.STARVATION_PREVENTION})
_CHOICES_BY_SCORE: Final = 60
"""A tenth of hybrid's choices go to the one that has waited longest, so the chance that an account waits
for 60 choices for each account of its pool is below one in 10^10."""
_EPSILON: Final = 1e-6
_MOMENT_S: Final = 0.01


class Guard:
    """Watches the world from outside and raises :class:`Violated`.

    It keeps its own books (of who runs where, of what the operator said, of what was spent) and
    compares them with those of the engine.
    """

    def __init__(self, roster: Roster, clock: VirtualClock) -> None:
        self._roster = roster
        self._clock = clock
        self._accounts = {account: Watched(account) for account in roster.accounts.values()}
        self._circuits: dict[CircuitTarget, Standing] = {}
        self._touched: dict[AccountRuntime, None] = {}

    # -- what the guard is told --------------------------------------------------------------

    def circuit_changed(self, change: CircuitChange) -> None:
        """A circuit changed its state."""
        if change.old is change.new:
            return
        before = self._circuits.get(change.target)
        if (
            before is not None
            and before.state is CircuitState.OPEN
            and change.new is CircuitState.HALF_OPEN
            and not change.by_operator
            and (before.until is None or change.at < before.until - _EPSILON)
        ):
            raise Violated("break kept", f"{change.target} probes before {before.until}")
        test = change.new is CircuitState.HALF_OPEN and change.old is CircuitState.CLOSED
        self._circuits[change.target] = Standing(change.new, change.until, test and not change.by_operator)

    def told(self, command: Command) -> None:
        """The operator's command was carried out."""
        accounts = self._roster.accounts
        match command:
            case Drain(account=name):
                self._accounts[accounts[name]].admin = "drained"
            case Disable(account=name):
                self._accounts[accounts[name]].admin = "disabled"
            case Resume(account=name):
                self._accounts[accounts[name]].admin = ""
            case Enable(account=name):
                watched = self._accounts[accounts[name]]
                watched.attention = False
                if watched.admin == "disabled":
                    watched.admin = ""
            case ResetCircuit(target=target) if target.scope is CircuitScope.ACCOUNT:
                self._accounts[accounts[target.name]].rests_until = -math.inf
            case SetStrategy(pool=name):
                # Nobody has waited under the new strategy yet.
                for account in self._roster.pools[name].accounts:
                    self._accounts[account].waited = 0
            case CorrectQuota(account=name):
                self.counts(accounts[name])
            case _:
                pass

    def counts(self, account: AccountRuntime) -> None:
        """Take over what the account's ledger says is used, as after a correction by hand."""
        for meter, window in zip(
            self._accounts[account].meters,
            account.ledger.view(self._clock.time()).windows,
            strict=True,
        ):
            meter.key, meter.used, meter.error = window.resets_at, window.used, math.inf

    def failed(self, grant: Grant, failure: Failure, *, blame: bool) -> None:
        """An attempt failed: note what that must have set."""
        watched = self._accounts[grant.account]
        if not blame:
            return
        if failure.category is ErrorCategory.AUTHENTICATION or failure.permanent:
            watched.attention = True
            return
        waits = (ErrorCategory.RATE_LIMIT, ErrorCategory.TRANSIENT_ERROR)
        if failure.category in waits and failure.retry_after_s is not None and failure.model is None:
            until = self._clock.now + failure.retry_after_s
            watched.rests_until = max(watched.rests_until, until)

    # -- an attempt begins -------------------------------------------------------------------

    def admitted(self, attempt: Try, of_request: Sequence[Try]) -> None:
        """An attempt begins; everything that could forbid it is looked at."""
        grant = attempt.grant
        account = grant.account
        watched = self._accounts[account]
        self._touched[account] = None
        watched.running.append(attempt)
        if len({id(each.grant.reservation) for each in of_request}) != len(of_request):
            raise Violated("reservation ends once", f"{account.id}: one reservation for two attempts")
        if watched.admin or account.admin is not AdminState.ACTIVE:
            raise Violated("standing", f"{account.id} is {watched.admin or account.admin} and was picked")
        if watched.attention or account.attention:
            raise Violated("standing", f"{account.id} needs attention and was picked")
        if account.ledger.exhausted_until is not None:
            raise Violated("standing", f"{account.id} is exhausted and was picked")
        if self._clock.now < watched.rests_until - _MOMENT_S:
            raise Violated("cooldown kept", f"{account.id} rests until {watched.rests_until:.3f}")
        running = len(watched.running)
        if running > account.limit or running > account.spec.max_concurrency:
            raise Violated("concurrency cap", f"{account.id}: {running} run, {account.limit} may")
        self._admitted_by(account.circuit, grant.permit, [t.grant.permit for t in watched.running])
        provider = grant.pool.provider
        permits = [
            each.grant.provider_permit
            for pool in provider.pools
            for sibling in pool.accounts
            for each in self._accounts[sibling].running
        ]
        self._admitted_by(provider.circuit, grant.provider_permit, permits)
        model_circuit = account.model_circuits.get(grant.model)
        if model_circuit is not None:
            if grant.model_permit is None:
                raise Violated("open circuit", f"{model_circuit.target} was not asked")
            permits = [
                each.grant.model_permit
                for each in watched.running
                if each.grant.model_permit is not None and each.grant.model == grant.model
            ]
            self._admitted_by(model_circuit, grant.model_permit, permits)
        self._reserved(attempt, watched)
        self._takes_turns(attempt)

    def _admitted_by(self, circuit: Circuit, permit: Permit, permits: Sequence[Permit]) -> None:
        known = self._circuits.get(circuit.target)
        state = CircuitState.CLOSED if known is None else known.state
        if state is not circuit.state:
            raise Violated("open circuit", f"{circuit.target} is {circuit.state} without having told of it")
        if state in _CUT_OFF:
            raise Violated("open circuit", f"{circuit.target} is {state} and let a call through")
        if permit.generation != circuit.generation or not permit.live:
            raise Violated("open circuit", f"{circuit.target} gave a permit of an older generation")
        if state is not CircuitState.HALF_OPEN:
            return
        settings = circuit.settings
        allowed = 1 if known is not None and known.rate_limit_test else settings.half_open_max_calls
        now = self._clock.now
        probes = sum(
            other.generation == permit.generation
            and other.lease_until is not None
            and now < other.lease_until
            for other in permits
        )
        if permit.lease_until is None or probes > allowed:
            raise Violated("half-open probes", f"{circuit.target}: {probes} probes, {allowed} may run")

    def _reserved(self, attempt: Try, watched: Watched) -> None:
        account, grant = attempt.grant.account, attempt.grant
        if not account.spec.quota:
            return
        hard_limit = account.pool.spec.thresholds.hard_limit
        windows = account.ledger.view(self._clock.time()).windows
        attempt.resets = tuple(window.resets_at for window in windows)
        for index, (window, meter) in enumerate(zip(windows, watched.meters, strict=True)):
            cap = window.limit * hard_limit / 100.0
            if meter.key != window.resets_at:
                meter.key, meter.used, meter.error = window.resets_at, 0.0, 0.0
            unit = account.spec.quota[index].unit
            held = sum(
                each.grant.estimate.amount(unit)
                for each in watched.running
                if each.resets[index] == window.resets_at
            )
            if window.used + window.held > cap + _EPSILON or meter.used + held > cap + _EPSILON:
                raise Violated(
                    "hard limit",
                    f"{account.id} {window.kind}: {window.used:g} used and {window.held:g} held, "
                    f"really {meter.used:g} and {held:g}, of {cap:g}",
                )
            if abs(held - window.held) > _EPSILON:
                raise Violated(
                    "no leaked hold",
                    f"{account.id} {window.kind} holds {window.held:g} for attempts of {held:g}",
                )
            if not 0 < grant.estimate.amount(unit) < math.inf:
                raise Violated("counters", f"{account.id}: an estimate of {grant.estimate}")

    def _takes_turns(self, attempt: Try) -> None:
        """Whoever could have been picked instead has waited for one choice more."""
        decision, account = attempt.grant.decision, attempt.grant.account
        pool = account.pool
        self._accounts[account].waited = 0
        in_turn = decision.rule in _IN_TURN
        if not in_turn and decision.rule not in _BY_SCORE:
            return
        size = len(pool.accounts)
        most = size if in_turn else size * _CHOICES_BY_SCORE
        tiers = (pool.reserve,) if decision.tier.value == "reserve" else (pool.normal,)
        skipped = {skip.name for skip in decision.skipped}
        for other in pool.accounts:
            watched = self._accounts[other]
            if other is account:
                continue
            if not any(other.slot in tier for tier in tiers):
                watched.waited = 0
            elif other.id not in skipped:
                watched.waited += 1
                if watched.waited > most:
                    raise Violated(
                        "nobody starves",
                        f"{other.id} was passed over {watched.waited} times by {pool.strategy}",
                    )

    # -- an attempt ends ---------------------------------------------------------------------

    @contextmanager
    def ending(self, attempt: Try, spent: int) -> Iterator[None]:
        """Around the settlement of an attempt that has cost ``spent`` tokens."""
        grant, now, wall = attempt.grant, self._clock.now, self._clock.time()
        account = grant.account
        watched = self._accounts[account]
        self._touched[account] = None
        if ended(grant):
            raise Violated("reservation ends once", f"{account.id}: ended before its attempt")
        late = []
        for circuit, permit in permits_of(grant):
            circuit.tick(now)
            if not permit.live or permit.generation != circuit.generation:
                late.append((circuit, fingerprint_of(circuit, now)))
        before = [window.used for window in account.ledger.view(wall).windows]
        yield
        watched.running.remove(attempt)
        if not ended(grant):
            raise Violated("no leaked hold", f"{account.id}: the attempt is over, its reservation is not")
        for circuit, fingerprint in late:
            if fingerprint_of(circuit, now) != fingerprint:
                raise Violated("late results", f"{circuit.target}: a result of an older generation counted")
        for circuit, permit in permits_of(grant):
            if permit.live:
                raise Violated(
                    "no leaked permit", f"{circuit.target}: the attempt is over, its permit is not"
                )
        self._spent(attempt, watched, spent, before)

    def _spent(self, attempt: Try, watched: Watched, spent: int, before: Sequence[float]) -> None:
        account = attempt.grant.account
        actual = QuotaEstimate(spent) if spent else QuotaEstimate(0, 0)
        windows = account.ledger.view(self._clock.time()).windows
        for index, (window, meter) in enumerate(zip(windows, watched.meters, strict=True)):
            unit = account.spec.quota[index].unit
            amount = actual.amount(unit)
            if meter.key == attempt.resets[index]:
                meter.used += amount
                meter.error += max(0.0, amount - attempt.grant.estimate.amount(unit))
            counted = amount if window.resets_at == attempt.resets[index] else 0.0
            if abs(window.used - before[index] - counted) > _EPSILON:
                raise Violated(
                    "what is spent is counted",
                    f"{account.id} {window.kind}: {window.used - before[index]:g} more, {counted:g} spent",
                )

    # -- after each step ---------------------------------------------------------------------

    def step(self, *, everywhere: bool) -> None:
        """After a step: the accounts that it touched, or all."""
        if everywhere:
            for account, watched in self._accounts.items():
                self._balance(account, watched)
            for provider in self._roster.providers.values():
                live = sum(
                    each.grant.provider_permit.live
                    for pool in provider.pools
                    for account in pool.accounts
                    for each in self._accounts[account].running
                )
                same_permits(provider.circuit, live)
        else:
            for account in self._touched:
                self._balance(account, self._accounts[account])
        self._touched.clear()

    def _balance(self, account: AccountRuntime, watched: Watched) -> None:
        running = watched.running
        count = len(running)
        if account.in_flight != count:
            raise Violated("in flight", f"{account.id} says {account.in_flight}, {count} run")
        if account.ledger.live != count:
            raise Violated("no leaked hold", f"{account.id}: {account.ledger.live} holds, {count} run")
        if count > account.spec.max_concurrency or not 1 <= account.limit <= account.spec.max_concurrency:
            raise Violated("concurrency cap", f"{account.id}: {count} run, {account.limit} may")
        live = 0
        for each in running:
            live += each.grant.permit.live
        same_permits(account.circuit, live)
        for model, circuit in account.model_circuits.items():
            live = sum(
                each.grant.model_permit is not None and each.grant.model_permit.live
                for each in running
                if each.grant.model == model
            )
            same_permits(circuit, live)
        if min(account.requests, account.failures, account.tokens) < 0 or account.failures > account.requests:
            raise Violated("counters", f"{account.id}: {account.failures} of {account.requests} failed")

    def look(self) -> None:
        """Now and then: windows, and whether everybody who may serve is offered to requests."""
        now, wall = self._clock.now, self._clock.time()
        for account, watched in self._accounts.items():
            for window, meter in zip(account.ledger.view(wall).windows, watched.meters, strict=True):
                if window.used < 0 or window.held < -_EPSILON:
                    raise Violated("counters", f"{account.id}: {window.used:g} used, {window.held:g} held")
                cap = window.limit * account.pool.spec.thresholds.hard_limit / 100.0
                if meter.key == window.resets_at and window.used > cap + meter.error + _EPSILON:
                    raise Violated("hard limit", f"{account.id}: {window.used:g} used of {cap:g}")
            eligible = self._may_serve(account, watched, now, wall)
            offered = account.slot in account.pool.normal or account.slot in account.pool.reserve
            if eligible and watched.eligible and not offered:
                raise Violated(
                    "nobody starves", f"{account.id} could serve, but is left out: {account.parked}"
                )
            watched.eligible = eligible and not offered

    @staticmethod
    def _may_serve(account: AccountRuntime, watched: Watched, now: float, wall: float) -> bool:
        percent = account.ledger.committed_percent(wall)
        return (
            not watched.admin
            and not account.attention
            and account.ledger.exhausted_until is None
            and (percent is None or percent < account.pool.spec.thresholds.hard_limit)
            and account.circuit.admits(now - _MOMENT_S)
            and account.circuit.admits(now)
            and (account.cooldown_until is None or account.cooldown_until < now - _MOMENT_S)
            and account.in_flight < account.limit
            and account.comeback is None
            and account.ramp is None
        )
