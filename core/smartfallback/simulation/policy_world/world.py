"""The world: the engine's real objects, driven by events of a virtual clock."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Final, NamedTuple

from smartfallback.engine.bus import Bus
from smartfallback.engine.comebacks import Comebacks
from smartfallback.engine.maintenance import Maintenance
from smartfallback.engine.meters import Meters
from smartfallback.engine.operator import Operator
from smartfallback.engine.placement import Placement
from smartfallback.engine.planner import Planner
from smartfallback.engine.queue_desk import QueueDesk
from smartfallback.engine.quota_desk import QuotaDesk, without_sources
from smartfallback.engine.resets import Resets
from smartfallback.engine.roster import AccountRuntime, Roster, circuit_factory
from smartfallback.engine.services import Services
from smartfallback.engine.settlement import Settlement
from smartfallback.engine.throttling import Throttles
from smartfallback.model.circuits import CircuitState
from smartfallback.model.commands import Command, CorrectQuota, Enable, ResetCircuit, Resume
from smartfallback.model.events import AccountResumed, AdminChanged, ConcurrencyChanged, Event, QuotaReset
from smartfallback.model.quota import TruthLabel
from smartfallback.model.requests import Message, Request, Role
from smartfallback.policy.answer_cache import AnswerCache
from smartfallback.policy.circuit import CircuitChange
from smartfallback.policy.retry_budget import RetryBudget
from smartfallback.providers.base import Call, Chunk
from smartfallback.simulation.policy_world.asking import Asking
from smartfallback.simulation.policy_world.books import Violated
from smartfallback.simulation.policy_world.faults import Upstreams
from smartfallback.simulation.policy_world.guard import Guard
from smartfallback.simulation.policy_world.line import Line
from smartfallback.simulation.policy_world.plans import Plan
from smartfallback.simulation.policy_world.timeline import Timeline, Trace, VirtualClock

GRACE_S: Final = 5_400.0
"""After healing everything comes back by itself within so long: the longest back-off in the engine is
an hour, with a quarter of jitter, after a reset that did not come."""

_LOOK_TICKS: Final = 5
_PROOFS: Final = 12
_DAY_S: Final = 86_400.0
_SWING: Final = 0.8
_SESSIONS: Final = 12
_TURNS: Final = (
    (Message(Role.USER, "x" * 200),),
    (Message(Role.USER, "x" * 1_600),),
    (
        Message(Role.SYSTEM, "s" * 100),
        Message(Role.USER, "x" * 800),
        Message(Role.ASSISTANT, "x" * 800),
        Message(Role.USER, "x" * 200),
    ),
)


class Outcome(NamedTuple):
    """What became of one life.

    Attributes:
        requests: How many there were.
        ends: How they ended.
        steps: Events, after each of which the invariants held.
        digest: SHA-256 of the trace.
        trace: The lines, empty unless they were kept.
        virtual_s: How long it lasted in the world.
    """

    requests: int
    ends: dict[str, int]
    steps: int
    digest: str
    trace: str
    virtual_s: float


class _NoProvider:
    """Attempts go as the plan says, so that nobody is called."""

    def unavailable(self) -> str:
        return ""

    def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        raise NotImplementedError(f"{call.account.id} is not called in this world")

    async def aclose(self) -> None:
        return


class World:
    """One plan's life.

    Args:
        plan: What happens.
        keep_trace: Keep the lines of the trace and not only their hash.
        look_everywhere: After every so many steps all accounts are looked at, and not only those that
            the step touched.

    Attributes:
        clock: The time.
        trace: What happened.
        guard: The invariants.
        upstreams: How attempts go.
        roster: The engine's accounts.
        services: What the engine's requests share.
        line: Of requests that wait for a place.
        chain: The one chain.
    """

    def __init__(self, plan: Plan, *, keep_trace: bool = False, look_everywhere: int = 1) -> None:
        self._plan = plan
        self._everywhere = look_everywhere
        self.clock = clock = VirtualClock(plan.starts_at)
        self._timeline = Timeline(clock)
        self.trace = Trace(clock, keep=keep_trace)
        self._traffic = random.Random(f"traffic {plan.seed}")
        rng = random.Random(f"engine {plan.seed}")
        self.upstreams = Upstreams(plan.episodes, random.Random(f"upstreams {plan.seed}"), plan.pace)
        bus = Bus()
        bus.listen(self._heard)
        self.roster = roster = Roster(
            plan.spec,
            adapters=lambda pool: _NoProvider(),  # noqa: ARG005 - an adapter factory
            make_circuit=circuit_factory(rng, clock.monotonic, self._circuit_changed),
            rng=rng,
            now_at=clock.time(),
        )
        self.guard = Guard(roster, clock)
        self.line = Line(self.soon)
        queue = QueueDesk(plan.spec.recovery.queue_limit, clock, rng, line=self.line.__len__, archive=None)
        self._comebacks = Comebacks(roster, clock, bus)
        self._placement = Placement(
            clock,
            bus,
            Resets(clock, bus, rng),
            self._comebacks,
            Throttles(clock, bus),
            self.line.freed,
        )
        settlement = Settlement(
            roster,
            self._placement,
            clock,
            bus,
            make_circuit=circuit_factory(rng, clock.monotonic, self._circuit_changed),
            on_room=self.line.freed,
        )
        recovery = plan.spec.recovery
        quota = QuotaDesk(roster, self._placement, clock, bus, rng, without_sources)
        self.services = Services(
            planner=Planner(self._placement, clock),
            settlement=settlement,
            bus=bus,
            clock=clock,
            rng=rng,
            budget=RetryBudget(share=recovery.retry_share, reserve=recovery.retry_reserve),
            capacity=self.line,
            queue=queue,
            cache=AnswerCache(),
            learn=quota.learn,
            check=quota.check,
        )
        self._operator = Operator(roster, self._placement, settlement, clock, bus, quota, queue)
        meters = Meters({}, clock, lambda pool: ())  # noqa: ARG005 - nobody reads them here
        self._maintenance = Maintenance(roster, self._placement, meters, clock, bus, queue)
        self.chain = roster.chains["default"]
        self._requests = 0
        self._alive: dict[Asking, None] = {}
        self._ends: Counter[str] = Counter()
        self._steps = 0
        self._ticks = 0
        self._healed = False
        for account in roster.accounts.values():
            self._begin(account)
        self._maintenance.check(clock.now)

    def _begin(self, account: AccountRuntime) -> None:
        now = self.clock.now
        percent = dict(self._plan.used).get(account.id)
        if percent is not None and account.spec.quota:
            used = percent / 100.0 * account.spec.quota[0].limit
            account.ledger.set_used(0, used, self.clock.time(), TruthLabel.MEASURED)
        account.status = account.ledger.status(self.clock.time())
        self._placement.place(account, now)
        self._placement.watch_reset(account, now)
        self.guard.counts(account)

    # -- time --------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``when``, in monotonic seconds."""
        self._timeline.at(when, action)

    def soon(self, action: Callable[[], None]) -> None:
        """Do ``action`` at this moment, after what is set for it already."""
        self._timeline.at(self.clock.now, action)

    def _step(self) -> None:
        self._timeline.step()
        self._steps += 1
        self.guard.step(everywhere=self._steps % self._everywhere == 0)

    # -- the life ----------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Live the plan, let everything heal, and see that all is well again.

        Raises:
            Violated: An invariant did not hold.
        """
        plan = self._plan
        self.at(self._next_arrival(), self._arrive)
        self.at(self.clock.now + plan.tick_s, self._tick)
        for when, command in plan.commands:
            self.at(when, partial(self._command, command))
        for when, seconds in plan.clock_steps:
            self.at(when, partial(self._step_clock, seconds))
        while (due := self._timeline.next_at()) is not None and due < plan.heals_at:
            self._step()
        self._heal()
        while len(self._timeline):
            self._step()
        self._nothing_left()
        self._let_time_heal()
        self._prove()
        self._nothing_left()
        return Outcome(
            self._requests,
            dict(sorted(self._ends.items())),
            self._steps,
            self.trace.digest,
            self.trace.text(),
            self.clock.now,
        )

    def ended(self, asking: Asking) -> None:
        """A request is over."""
        if self._alive.pop(asking, 0) == 0:
            raise Violated("reservation ends once", f"request {asking.number} ended twice")
        self._ends[asking.over] += 1

    def _next_arrival(self) -> float:
        """When the next request comes: a Poisson process whose rate swings with the hour of the day.

        The rate of this moment is taken to last until then, since a day is long.
        """
        day = math.cos(2.0 * math.pi * (self.clock.time() % _DAY_S) / _DAY_S)
        return self.clock.now + self._traffic.expovariate(self._plan.per_s * (1.0 - _SWING * day))

    def _arrive(self) -> None:
        if self._healed:
            return
        self.at(self._next_arrival(), self._arrive)
        plan, rng = self._plan, self._traffic
        timeout_s = self.chain.spec.timeout_s
        if rng.random() < plan.hurried:
            timeout_s = 1.0 + 4.0 * rng.random()
        asking = self._ask(
            Request(
                _TURNS[int(rng.random() * len(_TURNS))],
                session=f"s{int(rng.random() * _SESSIONS)}" if rng.random() < plan.in_session else None,
                max_output_tokens=1 + int(rng.random() * plan.output_tokens),
                pin=rng.choice(list(self.roster.accounts)) if rng.random() < plan.pinned else None,
            ),
            timeout_s,
        )
        if rng.random() < plan.cancelled:
            self.at(self.clock.now + plan.pace * 2.0 * rng.random(), asking.cancel)

    def _ask(self, request: Request, timeout_s: float) -> Asking:
        self._requests += 1
        self.services.budget.note_request(self.clock.now)
        asking = Asking(self, self._requests, request, timeout_s)
        self._alive[asking] = None
        pin = f" pinned to {request.pin}" if request.pin else ""
        self.trace.say(f"r{self._requests} arrives{pin}")
        asking.look()
        return asking

    def _tick(self) -> None:
        if self._healed and not self._alive:
            return
        self._maintenance.check(self.clock.now)
        self._ticks += 1
        if self._everywhere == 1 or self._ticks % _LOOK_TICKS == 0:
            self.guard.look()
        self.at(self.clock.now + self._plan.tick_s, self._tick)

    def _command(self, command: Command) -> None:
        if self._healed:
            return
        self._execute(command)

    def _execute(self, command: Command) -> None:
        result = self._operator.execute(command)
        if result.ok:
            self.guard.told(command)
        self.trace.say(f"operator: {type(command).__name__}: {result.message}")

    def _step_clock(self, seconds: float) -> None:
        if self._healed:
            return
        self.clock.offset += seconds
        self.trace.say(f"the calendar steps by {seconds:g} s")
        # Resets wait for their moment by the calendar, which the maintenance looks up after a step.
        self._maintenance.check(self.clock.now)

    # -- healing -----------------------------------------------------------------------------

    def _heal(self) -> None:
        """End the faults, and undo what only an operator can undo."""
        self._healed = True
        self.upstreams.heal()
        self.trace.say("heals")
        self._repair()

    def _repair(self) -> None:
        """What the operator does about holds, drains, refused keys and walls without an end in sight."""
        wall = self.clock.time()
        for account in self.roster.accounts.values():
            name = account.id
            self._execute(Resume(name))
            self._execute(Enable(name))
            until = account.ledger.exhausted_until
            circuits = [account.circuit, account.pool.provider.circuit, *account.model_circuits.values()]
            targets = [circuit.target for circuit in circuits if _held(circuit.state)]
            if until is not None and until > wall + GRACE_S / 2:
                targets.append(account.circuit.target)
            for target in dict.fromkeys(targets):
                self._execute(ResetCircuit(target, "healed"))

    def _nothing_left(self) -> None:
        if self._alive or len(self.line):
            raise Violated("every request ends", f"{len(self._alive)} have not, {len(self.line)} wait")
        self.guard.step(everywhere=True)
        for account in self.roster.accounts.values():
            if account.in_flight or account.ledger.live or account.attempts:
                raise Violated("no leaked hold", f"{account.id}: something is left when all is over")

    def _let_time_heal(self) -> None:
        # What still ran when the faults ended may have brought news of them.
        self._repair()
        for account in self.roster.accounts.values():
            for index in range(len(account.spec.quota)):
                self._execute(CorrectQuota(account.id, 10.0, index))
        ends = self.clock.now + GRACE_S
        while self.clock.now < ends:
            self.clock.now += 60.0
            self._maintenance.check(self.clock.now)
        self.guard.look()
        self.guard.look()

    def _prove(self) -> None:
        """Every account answers when it is asked for, circuits close, and any request is answered."""
        for account in self.roster.accounts.values():
            for _ in range(_PROOFS):
                self._must_answer(account.id)
                if _closed(account):
                    break
            else:
                states = f"{account.circuit.state}, {account.pool.provider.circuit.state}"
                raise Violated("progress", f"{account.id} answers, but its circuits are {states}")
        for _ in range(2 * len(self.roster.accounts)):
            self._must_answer(None)

    def _must_answer(self, pin: str | None) -> None:
        asking = self._ask(Request(_TURNS[0], pin=pin, max_output_tokens=50), self.chain.spec.timeout_s)
        while len(self._timeline):
            self._step()
        if asking.over != "answered":
            skips = "; ".join(str(skip) for skip in asking.walk.skips)
            raise Violated("progress", f"a request{f' to {pin}' if pin else ''} {asking.over}: {skips}")
        self.clock.now += 1.0
        self._maintenance.check(self.clock.now)

    # -- listening ---------------------------------------------------------------------------

    def _circuit_changed(self, change: CircuitChange) -> None:
        self.trace.say(f"{change.target}: {change.old} to {change.new}: {change.cause}")
        try:
            self.guard.circuit_changed(change)
        except Violated as violated:
            # A circuit swallows what its listener raises; the step ends with it all the same.
            error = violated
            self.soon(lambda: _raise(error))
        self._comebacks.circuit_changed(change)

    def _heard(self, event: Event) -> None:
        if isinstance(event, QuotaReset | AccountResumed | AdminChanged | ConcurrencyChanged):
            self.trace.say(f"{type(event).__name__} {event.account}")


def _raise(error: Violated) -> None:
    raise error


def _held(state: CircuitState) -> bool:
    return state in (CircuitState.FORCED_OPEN, CircuitState.DISABLED, CircuitState.OBSERVE_ONLY)


def _closed(account: AccountRuntime) -> bool:
    return (
        account.circuit.state is CircuitState.CLOSED
        and account.pool.provider.circuit.state is CircuitState.CLOSED
    )
