"""Ends attempts: settles their quota, returns their permits, and lets the right scopes know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.forecasting import AccountForecast
from smartfallback.engine.grant import Grant
from smartfallback.engine.placement import Placement
from smartfallback.engine.roster import AccountRuntime, Block, CircuitFactory, Roster
from smartfallback.engine.walk import CHARACTERS_A_TOKEN
from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.decisions import AdminState
from smartfallback.model.events import Actor, AdminChanged, AttentionRaised, CooldownStarted
from smartfallback.model.outcomes import ErrorCategory, Failure
from smartfallback.model.quota import QuotaEstimate
from smartfallback.model.requests import Usage
from smartfallback.policy.circuit import Circuit, Permit
from smartfallback.policy.ledger import WALL_FALLBACK_S
from smartfallback.policy.recovery import BlameScope, Verdict, blamed

_SAME_REST_S = 1.0
"""Answers to requests that ran side by side differ by no more: one rest, told once."""


class Received(NamedTuple):
    """What came of an answer before it ended."""

    characters: int = 0
    usage: Usage | None = None


class Settlement:
    """Each grant ends here exactly once: succeeded, failed or given up."""

    def __init__(
        self,
        roster: Roster,
        placement: Placement,
        clock: Clock,
        bus: Bus,
        *,
        make_circuit: CircuitFactory,
        on_room: Callable[[], None],
    ) -> None:
        self._roster = roster
        self._placement = placement
        self._clock = clock
        self._bus = bus
        self._make_circuit = make_circuit
        self._on_room = on_room
        self.left: Callable[[Grant], None] | None = None
        """Called with each grant that has ended: other instances may have to know."""

    def succeeded(self, grant: Grant, usage: Usage) -> None:
        """The answer is complete and cost ``usage``."""
        now = self._clock.monotonic()
        account = grant.account
        self._settle(grant, usage.total_tokens)
        account.requests += 1
        account.tokens += usage.total_tokens
        for circuit, permit in self.permits(grant):
            circuit.succeed(permit, now)
        if account.throttle is not None and grant.reservation not in account.disowned:
            self._placement.throttles.succeeded(account, grant.permit.started_at, now)
        self._placement.resets.answered(account, grant.reservation, now)
        self._leave(grant, now)

    def answering(self, grant: Grant) -> None:
        """The answer has begun: that much is proof that the account's quota is back after a reset."""
        account = grant.account
        if account.comeback is not None:
            now = self._clock.monotonic()
            self._placement.resets.answered(account, grant.reservation, now)
            self._placement.place(account, now)

    def given_up(self, grant: Grant, received: Received) -> None:
        """The caller went away or the operator moved the request: nobody is blamed."""
        now = self._clock.monotonic()
        self._spend_partial(grant, received)
        for circuit, permit in self.permits(grant):
            circuit.release(permit, now)
        self._leave(grant, now)

    def failed(self, grant: Grant, failure: Failure, received: Received, *, blame: bool = True) -> None:
        """Record ``failure`` on the scopes of its category (SPEC section 6).

        Without ``blame`` the attempt ends as failed and no circuit hears of it.
        """
        now = self._clock.monotonic()
        account = grant.account
        if grant.reservation in account.disowned:
            grant.disowned = True
            self.given_up(grant, received)
            return
        account.requests += 1
        account.failures += 1
        self._spend_partial(grant, received)
        for scope, verdict in blamed(failure) if blame else ():
            if verdict is Verdict.RATE_LIMIT:
                self._rate_limited(grant, failure, now)
            elif verdict is Verdict.EXHAUSTED:
                self._exhausted(grant, failure, now)
            elif verdict is Verdict.ATTENTION:
                self._needs_attention(account, failure)
            else:
                self._judge(grant, scope, verdict, failure, now)
        if failure.category is ErrorCategory.TRANSIENT_ERROR and failure.retry_after_s is not None:
            self._cool_down(account, now + failure.retry_after_s, failure, now)
        if blame:
            self._scale_down(grant, failure, now)
        # What the category did not judge goes back without a verdict; a second end is a no-op.
        for circuit, permit in self.permits(grant):
            circuit.ignore(permit, now)
        self._leave(grant, now)

    def permits(self, grant: Grant) -> list[tuple[Circuit, Permit]]:
        """The permits of ``grant``, each with its circuit."""
        permits = [
            (grant.account.circuit, grant.permit),
            (grant.pool.provider.circuit, grant.provider_permit),
        ]
        if grant.model_permit is not None:
            account = grant.account
            circuits = account.disowned.get(grant.reservation, account.model_circuits)
            permits.append((circuits[grant.model], grant.model_permit))
        return permits

    def _spend_partial(self, grant: Grant, received: Received) -> None:
        """An answer that broke off has cost its prompt and what came of it; a refused one nothing."""
        ledger = grant.account.ledger
        if received.usage is not None:
            spent = received.usage.total_tokens
        elif received.characters:
            prompt = grant.estimate.tokens - grant.output_estimate
            spent = prompt + received.characters // CHARACTERS_A_TOKEN
        else:
            ledger.release(grant.reservation, self._clock.time())
            return
        grant.account.tokens += spent
        self._settle(grant, spent)

    def _settle(self, grant: Grant, tokens: int) -> None:
        account, wall = grant.account, self._clock.time()
        spent = QuotaEstimate(tokens)
        account.ledger.settle(grant.reservation, spent, wall)
        if account.forecast is not None:
            account.forecast.add(spent, wall)
        elif account.spec.quota:
            # Made at the first use, so that idle accounts cost nothing.
            account.forecast = AccountForecast(account.spec.quota, account.pool.spec.thresholds.hard_limit)
            account.forecast.add(spent, wall)

    def _leave(self, grant: Grant, now: float) -> None:
        account = grant.account
        account.in_flight -= 1
        if account.disowned:
            account.disowned = {k: v for k, v in account.disowned.items() if k is not grant.reservation}
        if account.comeback is not None:
            account.comeback.released(grant.reservation)
        if self.left is not None:
            self.left(grant)
        if account.admin is AdminState.DRAINING and account.in_flight == 0:
            self.set_admin(account, AdminState.DRAINED, account.admin_reason, Actor.SYSTEM)
        self._placement.place(account, now)
        self._on_room()

    def set_admin(self, account: AccountRuntime, new: AdminState, reason: str, actor: Actor) -> None:
        """Change an account's admin state and tell of it; the caller places the account."""
        old, account.admin, account.admin_reason = account.admin, new, reason
        if actor is Actor.OPERATOR:
            account.admin_at = self._clock.time()
        if old is not new:
            bus = self._bus
            bus.publish(AdminChanged(bus.next_seq(), self._clock.time(), account.id, old, new, reason, actor))

    def _judge(self, grant: Grant, scope: BlameScope, verdict: Verdict, failure: Failure, now: float) -> None:
        """Let the scope's circuit count the failure."""
        judged: tuple[Circuit, Permit | None]
        if scope is BlameScope.PROVIDER:
            judged = grant.pool.provider.circuit, grant.provider_permit
        elif scope is BlameScope.MODEL:
            circuit = self._model_circuit(grant.account, grant.model, now)
            judged = circuit, _model_permit(grant, circuit, now)
        else:
            judged = grant.account.circuit, grant.permit
        circuit, permit = judged
        if permit is None:
            return
        if verdict is Verdict.SLOW:
            circuit.timed_out(permit, now, str(failure))
        elif verdict is Verdict.FAILURE:
            circuit.fail(permit, now, str(failure))

    def _rate_limited(self, grant: Grant, failure: Failure, now: float) -> None:
        """A rest for the account, or for the model that was asked for if the error names one.

        The upstream may name the model otherwise than the caller did (an alias): what rests is what
        was asked for.
        """
        account = grant.account
        rest = (
            failure.retry_after_s if failure.retry_after_s is not None else grant.pool.spec.burst_cooldown_s
        )
        until = now + rest
        for sibling in self._sharing(account, failure):
            if failure.model is not None:
                self._block_model(sibling, grant.model, until, failure, now)
            else:
                self._cool_down(sibling, until, failure, now)
            if sibling is not account:
                self._placement.place(sibling, now)
        if failure.model is not None:
            circuit = self._model_circuit(account, grant.model, now)
            permit = _model_permit(grant, circuit, now)
            if permit is not None:
                circuit.rate_limited(permit, now)
            return
        account.circuit.rate_limited(grant.permit, now)

    def _scale_down(self, grant: Grant, failure: Failure, now: float) -> None:
        """Let the accounts that met an overload together run fewer requests at once.

        A limit on another model than the pool's own says nothing of what the account bears.
        """
        if failure.model is not None and grant.model != grant.pool.spec.model:
            return
        throttles = self._placement.throttles
        for sibling in self._sharing(grant.account, failure):
            throttles.overloaded(sibling, grant.permit.started_at, failure, now)
            if sibling is not grant.account:
                self._placement.place(sibling, now)

    def _sharing(self, account: AccountRuntime, failure: Failure) -> Sequence[AccountRuntime]:
        """The accounts that the limit holds for: those of the project where it is the project's."""
        if failure.project_wide and account.spec.project:
            return self._roster.projects[account.spec.project]
        return (account,)

    def _cool_down(self, account: AccountRuntime, until: float, failure: Failure, now: float) -> None:
        known = account.cooldown_until
        if known is None or until > known:
            account.cooldown_until = until
            account.cooldown_reason = str(failure)
            if known is None or until > known + _SAME_REST_S:
                self._tell_cooldown(account, None, until, now, failure)

    def _model_circuit(self, account: AccountRuntime, model: str, now: float) -> Circuit:
        circuit = account.model_circuits.get(model)
        if circuit is None:
            target = CircuitTarget(CircuitScope.MODEL, f"{account.id}/{model}")
            circuit = self._make_circuit(target, account.pool.spec.account_circuit)
            account.model_circuits[model] = circuit
        circuit.tick(now)
        return circuit

    def _block_model(
        self, account: AccountRuntime, model: str, until: float, failure: Failure, now: float
    ) -> None:
        block = account.model_blocks.get(model)
        if block is None or until > block.until:
            account.model_blocks[model] = Block(until, str(failure))
            if block is None or until > block.until + _SAME_REST_S:
                self._tell_cooldown(account, model, until, now, failure)

    def _exhausted(self, grant: Grant, failure: Failure, now: float) -> None:
        """A named wall: the account (or its project) has nothing until the stated reset.

        Only a wall of another model than the pool's own leaves the account usable.
        """
        wall = self._clock.time()
        until = failure.resets_at
        if until is None and failure.retry_after_s is not None:
            until = wall + failure.retry_after_s
        for sibling in self._sharing(grant.account, failure):
            if failure.model is not None and grant.model != sibling.pool.spec.model:
                rest = WALL_FALLBACK_S if until is None else until - wall
                self._block_model(sibling, grant.model, now + rest, failure, now)
            else:
                ends_at = self._placement.resets.wall_met(sibling, until, str(failure), now)
                sibling.ledger.mark_exhausted(ends_at, wall, reason=str(failure))
            self._placement.place(sibling, now)

    def _needs_attention(self, account: AccountRuntime, failure: Failure) -> None:
        if not account.attention:
            bus = self._bus
            bus.publish(
                AttentionRaised(bus.next_seq(), self._clock.time(), account.id, str(failure), failure.hint)
            )
        account.attention = str(failure)

    def _tell_cooldown(
        self, account: AccountRuntime, model: str | None, until: float, now: float, failure: Failure
    ) -> None:
        bus = self._bus
        at = self._clock.time()
        bus.publish(CooldownStarted(bus.next_seq(), at, account.id, model, at + until - now, str(failure)))


def _model_permit(grant: Grant, circuit: Circuit, now: float) -> Permit | None:
    """The permit on which a result counts in the circuit of the attempt's model.

    An attempt without one began before the circuit was there. A closed circuit counts it all the
    same; in any other state it is a late result, which changes nothing.
    """
    if grant.model_permit is not None:
        return grant.model_permit
    return circuit.acquire(now) if circuit.state is CircuitState.CLOSED else None
