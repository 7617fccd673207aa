"""A rehearsal leaves nothing behind but real use, real readings and what was ordered by hand."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import (
    AccountSpec,
    AdminChanged,
    AdminState,
    CircuitChanged,
    CircuitScope,
    CircuitSettings,
    CircuitState,
    CircuitTarget,
    CloseCircuit,
    CorrectQuota,
    DegradedModeChanged,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    OpenCircuit,
    Orchestrator,
    QuotaUnit,
    RequestError,
    ResetCircuit,
    Resume,
    SetCircuitMode,
    SetStrategy,
    SkipReason,
    Strategy,
    SystemSpec,
    TruthLabel,
    WindowKind,
    WindowSpec,
)
from smartfallback.model.history import PastRequest
from smartfallback.model.queueing import KeptOutcome, QueueNews, QueueState
from smartfallback.model.quota import QuotaReading, WindowReading
from smartfallback.model.sharing import StoreView
from smartfallback.model.state import AccountState, CircuitRecord, SystemState
from support.clock import FakeClock
from support.jumping_loop import run
from support.scripted import ANSWER, Pause, ScriptedUpstream, ask, failure, pool, system

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000, "sun 00:00 UTC")
SLIDING = WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.TOKENS, 1_000_000)
CIRCUIT = CircuitSettings(failure_threshold=3, recovery_timeout_s=100.0, recovery_jitter=0.0)
OVER = "the rehearsal is over"


class MemoryStore:
    """A store that remembers what was last saved."""

    def __init__(self) -> None:
        self.accounts: dict[str, AccountState] = {}
        self.providers: dict[str, CircuitRecord | None] = {}

    async def load(self, accounts: Collection[str], providers: Collection[str]) -> SystemState:
        return SystemState(dict(self.accounts), dict(self.providers))

    async def save(self, changes: SystemState) -> None:
        self.accounts.update(changes.accounts)
        self.providers.update(changes.providers)

    def view(self) -> StoreView:
        return StoreView()

    async def exchange_queue(self, state: QueueState, room: int) -> QueueNews | None:
        return QueueNews()

    async def collect_outcome(self, request_id: str) -> KeptOutcome | None:
        return None

    async def keep_history(self, ended: object) -> bool:
        return True

    async def history(self, limit: int, since: float | None = None) -> tuple[PastRequest, ...]:
        return ()

    def take_notices(self) -> tuple[str, ...]:
        return ()

    async def aclose(self) -> None:
        pass


class Scene:
    """One orchestrator on a clock of its own, with what its upstreams answer and what it saved."""

    def __init__(self, spec: SystemSpec) -> None:
        self.clock = FakeClock()
        self.upstream = ScriptedUpstream()
        self.store = MemoryStore()
        self.orchestrator = Orchestrator(
            spec,
            clock=self.clock,
            rng=random.Random(1),
            provider_factory=self.upstream.provider,
            store=self.store,
        )

    async def fail(self, account: str, category: ErrorCategory, **fields: object) -> None:
        model = fields.pop("asked_model", None)
        self.upstream.always(account, [failure(category, **fields)])
        with contextlib.suppress(RequestError):
            await self.orchestrator.chat(ask(pin=account, timeout_s=0.05, model=model))
        self.upstream.always(account, ANSWER)

    async def answer(self, account: str | None = None, **fields: object) -> str | None:
        """Who answers; None when nobody does."""
        try:
            return (await self.orchestrator.chat(ask(pin=account, timeout_s=3.0, **fields))).account
        except RequestError:
            return None

    def look(self) -> None:
        self.orchestrator._maintenance.check(self.clock.monotonic())

    def view(self, account: str):
        return self.orchestrator.snapshot().account(account)

    async def saved(self) -> MemoryStore:
        """What another process would find now."""
        await self.orchestrator._persistence._save_changes()
        return self.store


@asynccontextmanager
async def running(spec: SystemSpec) -> AsyncIterator[Scene]:
    scene = Scene(spec)
    async with scene.orchestrator:
        yield scene


def two_pools(strategy: Strategy = Strategy.GREEDY) -> SystemSpec:
    quota = (WEEK, SLIDING)
    accounts = [AccountSpec(name, quota=quota) for name in ("a-1", "a-2")]
    return system(
        pool("main", *accounts, account_circuit=CIRCUIT, provider_circuit=CIRCUIT, strategy=strategy),
        pool("other", AccountSpec("b-1", quota=quota), account_circuit=CIRCUIT),
    )


def target(name: str) -> CircuitTarget:
    scope = CircuitScope.PROVIDER if name.endswith("-api") else CircuitScope.ACCOUNT
    return CircuitTarget(CircuitScope.MODEL if "/" in name else scope, name)


# -- the twin ----------------------------------------------------------------------------------

NAMES = st.sampled_from(["a-1", "a-2"])
FAULTS = st.sampled_from(
    [
        (ErrorCategory.MALFORMED_RESPONSE, {}),
        (ErrorCategory.API_FAILURE, {"http_status": 500}),
        (ErrorCategory.AUTHENTICATION, {}),
        (ErrorCategory.RATE_LIMIT, {"retry_after_s": 250.0}),
        (ErrorCategory.RATE_LIMIT, {"retry_after_s": 70.0, "model": "big", "asked_model": "big"}),
        (ErrorCategory.QUOTA_EXHAUSTED, {"retry_after_s": 900.0}),
        (ErrorCategory.NETWORK_ERROR, {}),
    ]
)
ORDERS = st.sampled_from(
    [
        lambda name: Drain(name, "why"),
        Resume,
        lambda name: Disable(name, "why"),
        Enable,
        lambda name: OpenCircuit(target(name), "held", 150.0),
        lambda name: OpenCircuit(target("main-api"), "held"),
        lambda name: CloseCircuit(target(name), "shut"),
        lambda name: ResetCircuit(target(name)),
        lambda name: SetCircuitMode(target(name), CircuitState.HALF_OPEN),
        lambda name: SetCircuitMode(target("main-api"), CircuitState.OBSERVE_ONLY),
        lambda name: CorrectQuota(name, 97.0),
        lambda name: CorrectQuota(name, 3.0, 1),
        lambda name: SetStrategy("main", Strategy.STICKY),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fail"), NAMES, FAULTS),
        st.tuples(st.just("order"), NAMES, ORDERS),
        st.tuples(st.just("answer"), NAMES, st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 60.0, 110.0, 700.0]), st.none()),
    ),
    max_size=7,
)


async def walk(scene: Scene, steps, execute, *, twin: Scene | None = None) -> None:
    """Go through the steps; a twin lives through the same time, and through nothing else."""
    for kind, subject, what in steps:
        if kind == "wait":
            for each in (scene, twin):
                if each is not None:
                    each.clock.advance(subject)
                    each.look()
        elif kind == "fail":
            await scene.fail(subject, what[0], **what[1])
        elif kind == "order":
            execute(what(subject))
        else:
            await scene.answer(subject)


def timeless(circuit, at: float, *, always: bool = False):
    """A break that ends inside a rehearsal is noticed at its end, with a twin when somebody looks."""
    if circuit is None:
        return None
    if circuit.state is CircuitState.HALF_OPEN or (circuit.until is not None and circuit.until <= at):
        return replace(circuit, state=CircuitState.HALF_OPEN, since=0.0, until=None, cause="")
    return replace(circuit, since=0.0) if always else circuit


def standing(scene: Scene, *, used: bool):
    """What can be seen of the accounts but counts; with ``used`` also what real use changes."""
    snapshot = scene.orchestrator.snapshot()
    seen = []
    for each in snapshot.pools:
        circuits = [replace(each.provider_circuit, generation=0, rejected=0)]
        for account in each.accounts:
            circuits += [
                replace(circuit, generation=0, rejected=0)
                for circuit in (account.circuit, *account.model_circuits)
            ]
            seen.append(
                (
                    account.id,
                    account.admin,
                    account.admin_reason,
                    account.attention,
                    account.cooldown_until,
                    account.cooldown_reason,
                    account.max_concurrency,
                    account.quota.exhausted_until,
                    account.failures,
                    account.in_flight,
                )
            )
            if not used:
                quota = replace(account.quota, forecast=None)  # made when somebody looks
                seen.append((quota, account.skip, account.last_used_at, account.requests))
        seen.append((each.strategy, each.name))
        seen += [timeless(circuit, snapshot.at, always=used) for circuit in circuits]
    return [*seen, snapshot.chains]


def records(store: MemoryStore, at: float):
    accounts = {
        name: replace(
            state,
            circuit=timeless(state.circuit, at),
            model_circuits={model: timeless(each, at) for model, each in state.model_circuits.items()},
        )
        for name, state in store.accounts.items()
    }
    return accounts, {name: timeless(record, at) for name, record in store.providers.items()}


def conditions(state: AccountState):
    return replace(state, windows=(), last_used_at=None, requests=0, tokens=0, circuit=None)


@settings(max_examples=80, deadline=None)
@given(
    before=STEPS,
    inside=STEPS,
    strategy=st.sampled_from([Strategy.GREEDY, Strategy.LRU, Strategy.ROUND_ROBIN, Strategy.STICKY]),
)
def test_afterwards_all_is_as_with_a_twin_that_had_no_rehearsal(before, inside, strategy):
    # On a loop without real time, so that a slow machine changes no number of retries.
    run(live_beside_a_twin(before, inside, strategy))


async def live_beside_a_twin(before, inside, strategy: Strategy) -> None:
    spec = two_pools(strategy)
    async with running(spec) as scene, running(spec) as twin:
        for each in (scene, twin):
            await walk(each, before, each.orchestrator.execute)
            each.look()
        tokens = {name: scene.view(name).tokens for name in ("a-1", "a-2")}
        saved_before = dict((await scene.saved()).accounts)
        await twin.saved()  # the time since when an account needs attention is noted then
        with scene.orchestrator.rehearsal(["a-1", "a-2"]) as rehearsal:
            await walk(scene, inside, rehearsal.execute, twin=twin)
            for name, state in (await scene.saved()).accounts.items():
                if name in saved_before and not any(step[0] == "wait" for step in inside):
                    assert conditions(state) == conditions(saved_before[name])
        twin.look()
        spent = {name: scene.view(name).tokens - tokens[name] for name in tokens}
        used = any(spent.values())
        assert standing(scene, used=used) == standing(twin, used=used)
        for name, amount in spent.items():
            assert scene.view(name).tokens == twin.view(name).tokens + amount
            assert scene.view(name).quota.windows[0].used == twin.view(name).quota.windows[0].used + amount
        if not used:
            # What never changed was never saved.
            twin.orchestrator._placement.changed.update(twin.orchestrator._roster.accounts.values())
            scene.orchestrator._placement.changed.update(scene.orchestrator._roster.accounts.values())
            at = scene.clock.time()
            assert records(await scene.saved(), at) == records(await twin.saved(), at)
            for session in (None, "s", None):
                assert await scene.answer(session=session) == await twin.answer(session=session)


# -- one thing each ------------------------------------------------------------------------------


async def test_two_failures_of_three_are_in_the_window_again():
    async with running(two_pools()) as scene:
        await scene.fail("a-1", ErrorCategory.MALFORMED_RESPONSE)  # asked twice
        assert scene.view("a-1").circuit.failures == 2
        with scene.orchestrator.rehearsal(["a-1"]):
            await scene.fail("a-1", ErrorCategory.MALFORMED_RESPONSE)
            assert scene.view("a-1").circuit.state is CircuitState.OPEN
        circuit = scene.view("a-1").circuit
        assert (circuit.state, circuit.failures, circuit.cause) == (CircuitState.CLOSED, 2, "")
        await scene.fail("a-1", ErrorCategory.MALFORMED_RESPONSE)
        assert scene.view("a-1").circuit.state is CircuitState.OPEN


async def test_what_goes_back_is_told_and_degraded_mode_ends_at_once():
    async with running(two_pools()) as scene:
        events = scene.orchestrator.subscribe()
        with scene.orchestrator.rehearsal(["a-1", "a-2"]) as rehearsal:
            assert rehearsal.execute(Drain("a-2", "no")).ok
            assert rehearsal.execute(OpenCircuit(target("a-1"), "down")).ok
            scene.look()
            assert scene.orchestrator.snapshot().chains[0].degraded
            events.drain()
        told = events.drain()[0]
        changes = [event for event in told if isinstance(event, CircuitChanged)]
        assert [(e.target.name, e.new, e.cause) for e in changes] == [("a-1", CircuitState.CLOSED, OVER)]
        admins = [event for event in told if isinstance(event, AdminChanged)]
        assert [(e.account, e.new, e.reason) for e in admins] == [("a-2", AdminState.ACTIVE, OVER)]
        assert [e.degraded for e in told if isinstance(e, DegradedModeChanged)] == [False]
        # No ramp either: the circuit did not close by itself.
        assert scene.orchestrator._roster.accounts["a-1"].ramp is None
        assert {await scene.answer() for _ in range(4)} == {"a-1", "a-2"}


async def broken_off(scene: Scene, end: type[BaseException]) -> None:
    with scene.orchestrator.rehearsal(["a-1"]):
        await scene.fail("a-1", ErrorCategory.AUTHENTICATION)
        assert scene.view("a-1").attention
        raise end


@pytest.mark.parametrize("end", [RuntimeError, asyncio.CancelledError])
async def test_an_error_or_a_cancellation_puts_everything_back_too(end):
    async with running(two_pools()) as scene:
        with pytest.raises(end):
            await broken_off(scene, end)
        assert scene.view("a-1").attention == ""
        assert await scene.answer("a-1") == "a-1"


@pytest.mark.parametrize(
    ("category", "fields"),
    [
        (ErrorCategory.MALFORMED_RESPONSE, {}),
        (ErrorCategory.RATE_LIMIT, {"retry_after_s": 250.0}),
        (ErrorCategory.RATE_LIMIT, {"retry_after_s": 250.0, "model": "big"}),
        (ErrorCategory.AUTHENTICATION, {}),
        (ErrorCategory.QUOTA_EXHAUSTED, {"retry_after_s": 900.0}),
        (ErrorCategory.API_FAILURE, {"http_status": 503}),
    ],
)
async def test_an_attempt_that_fails_after_the_end_says_nothing_and_leaves_nothing(category, fields):
    async with running(two_pools()) as scene:
        pause = Pause()
        rehearsal = scene.orchestrator.rehearsal(["a-1"])
        with rehearsal:
            await scene.fail(
                "a-1", ErrorCategory.RATE_LIMIT, model="big", asked_model="big", retry_after_s=1.0
            )
            scene.clock.advance(2.0)
            scene.upstream.queue("a-1", [pause, failure(category, **fields)])
            late = asyncio.create_task(scene.orchestrator.chat(ask(pin="a-1", timeout_s=5.0, model="big")))
            await pause.reached.wait()
            assert scene.view("a-1").in_flight == 1
        assert scene.view("a-1").model_circuits == ()
        # A new circuit of that model, of the generation in which the late permit was given.
        await scene.fail("a-1", ErrorCategory.RATE_LIMIT, model="big", asked_model="big", retry_after_s=1.0)
        scene.clock.advance(2.0)
        before = scene.view("a-1")
        scene.upstream.always("a-1", [failure(ErrorCategory.INVALID_REQUEST)])
        pause.go_on.set()
        with pytest.raises(RequestError):
            await late
        after = scene.view("a-1")
        assert after.in_flight == 0
        assert after.circuit.failures == before.circuit.failures
        assert (after.attention, after.cooldown_until, after.quota.exhausted_until) == ("", None, None)
        assert [each.failures for each in after.model_circuits] == [
            each.failures for each in before.model_circuits
        ]
        roster = scene.orchestrator._roster
        account = roster.accounts["a-1"]
        assert (account.circuit.live, account.pool.provider.circuit.live, account.ledger.live) == (0, 0, 0)
        assert (account.disowned, account.failed_models.get("big")) == ({}, account.failed_models.get("big"))


async def test_an_attempt_from_before_that_ends_inside_or_after_is_counted_once():
    async with running(two_pools()) as scene:
        pauses = [Pause(), Pause()]
        scene.upstream.queue("a-1", *([pause, *ANSWER] for pause in pauses))
        asked = [asyncio.create_task(scene.orchestrator.chat(ask(pin="a-1"))) for _ in pauses]
        for pause in pauses:
            await pause.reached.wait()
        with scene.orchestrator.rehearsal(["a-1"]):
            pauses[0].go_on.set()
            await asked[0]
        pauses[1].go_on.set()
        await asked[1]
        account = scene.view("a-1")
        assert [(window.used, window.held) for window in account.quota.windows] == [(30, 0), (30, 0)]
        assert (account.tokens, account.requests, account.in_flight) == (30, 2, 0)


async def test_a_correction_is_taken_back_and_real_use_inside_is_added_and_saved():
    async with running(two_pools()) as scene:
        await scene.answer("a-1")
        with scene.orchestrator.rehearsal(["a-1"]) as rehearsal:
            assert rehearsal.execute(CorrectQuota("a-1", 90.0, 0)).ok
            await scene.answer("a-1")
            assert scene.view("a-1").quota.windows[0].used == 900_015
            saved = (await scene.saved()).accounts["a-1"]
            assert [(w.used, w.label) for w in saved.windows] == [(30, TruthLabel.MEASURED)] * 2
            assert (saved.requests, saved.tokens, saved.last_used_at) == (2, 30, scene.clock.time())
        windows = scene.view("a-1").quota.windows
        assert [(window.used, window.label) for window in windows] == [(30, TruthLabel.MEASURED)] * 2


async def test_a_window_that_begins_anew_inside_holds_only_what_was_used_since():
    async with running(two_pools()) as scene:
        await scene.answer("a-1")
        with scene.orchestrator.rehearsal(["a-1"]) as rehearsal:
            rehearsal.execute(CorrectQuota("a-1", 99.9, 1))
            scene.clock.advance(5 * 3600.0 + 1)
            scene.look()
            await scene.answer("a-1")
        week, sliding = scene.view("a-1").quota.windows
        assert (week.used, sliding.used) == (30, 15)
        assert sliding.resets_at == pytest.approx(scene.clock.time() + 5 * 3600.0)


async def test_what_a_quota_source_says_inside_holds_afterwards():
    async with running(two_pools()) as scene:
        with scene.orchestrator.rehearsal(["a-1"]) as rehearsal:
            rehearsal.execute(CorrectQuota("a-1", 50.0, 0))
            scene.clock.advance(5.0)
            scene.orchestrator._quota._about_to_ask("a-1")
            await scene.answer("a-1")
            said = WindowReading("weekly", WindowKind.WEEK, QuotaUnit.TOKENS, used=400, limit=1_000_000)
            reading = QuotaReading("a-1", "source", TruthLabel.REPORTED, scene.clock.time(), (said,))
            scene.orchestrator._quota._heard(reading)
            rehearsal.execute(CorrectQuota("a-1", 98.0, 0))
        week = scene.view("a-1").quota.windows[0]
        assert (week.used, week.label) == (415, TruthLabel.REPORTED)


async def test_a_wall_that_ends_inside_brings_the_account_back_as_ever():
    async with running(two_pools()) as scene:
        await scene.fail("a-1", ErrorCategory.QUOTA_EXHAUSTED, retry_after_s=900.0)
        with scene.orchestrator.rehearsal(["a-1"]) as rehearsal:
            rehearsal.execute(ResetCircuit(target("a-1")))
            assert await scene.answer("a-1") == "a-1"
            scene.clock.advance(400.0)
        assert scene.view("a-1").skip.reason is SkipReason.QUOTA_EXHAUSTED
        with scene.orchestrator.rehearsal(["a-1"]):
            scene.clock.advance(501.0)
        assert scene.view("a-1").skip is None
        assert scene.orchestrator._roster.accounts["a-1"].comeback is not None


async def test_alarms_stand_afterwards():
    async with running(two_pools()) as scene:
        await scene.fail("a-1", ErrorCategory.RATE_LIMIT, retry_after_s=300.0)
        with scene.orchestrator.rehearsal(["a-1"]) as rehearsal:
            rehearsal.execute(ResetCircuit(target("a-1")))
            scene.clock.advance(100.0)
            scene.look()
            assert scene.view("a-1").skip is None
        assert scene.view("a-1").skip.reason is SkipReason.COOLDOWN
        scene.clock.advance(200.1)
        assert await scene.answer("a-1") == "a-1"


async def test_rests_of_models_and_what_just_failed_are_forgotten():
    async with running(two_pools()) as scene:
        with scene.orchestrator.rehearsal(["a-1"]):
            await scene.fail(
                "a-1", ErrorCategory.RATE_LIMIT, model="big", asked_model="big", retry_after_s=60.0
            )
            await scene.fail("a-1", ErrorCategory.MALFORMED_RESPONSE, asked_model="small")
            assert await scene.answer("a-1", model="big") is None
            assert (await scene.saved()).accounts["a-1"].model_rests == {}
        account = scene.orchestrator._roster.accounts["a-1"]
        assert (account.model_blocks, account.failed_models, account.model_circuits) == ({}, {}, {})
        assert await scene.answer("a-1", model="big") == "a-1"


async def test_limits_that_followed_what_was_seen_are_as_before():
    async with running(two_pools()) as scene:
        main = scene.orchestrator._roster.pools["main"]
        limit_s = main.patience.begun_s
        pauses = [Pause() for _ in range(4)]
        with scene.orchestrator.rehearsal(["a-1"]):
            main.patience.answered(0.01)
            assert main.patience.begun_s != limit_s
            fault = failure(ErrorCategory.RATE_LIMIT, retry_after_s=60.0)
            scene.upstream.queue("a-1", *([pause, fault] for pause in pauses))
            asked = [scene.orchestrator.chat(ask(pin="a-1", timeout_s=3.0)) for _ in pauses]
            running_ = asyncio.gather(*asked, return_exceptions=True)
            for pause in pauses:
                await pause.reached.wait()
            for pause in pauses:
                pause.go_on.set()
            await running_
            assert scene.view("a-1").max_concurrency == 2
        assert scene.view("a-1").max_concurrency == 8
        assert main.patience.begun_s == limit_s


# -- by hand ---------------------------------------------------------------------------------------


async def test_a_command_by_hand_outlasts_the_rehearsal_and_is_saved_at_once():
    async with running(two_pools()) as scene:
        hand = scene.orchestrator.execute
        with scene.orchestrator.rehearsal(["a-1", "a-2"]) as rehearsal:
            assert hand(Drain("a-1", "by hand")).ok
            assert rehearsal.execute(Resume("a-1")).ok
            assert hand(OpenCircuit(target("main-api"), "by hand")).ok
            assert hand(CorrectQuota("a-2", 40.0)).ok
            assert rehearsal.execute(CloseCircuit(target("main-api"), "")).ok
            assert rehearsal.execute(CorrectQuota("a-2", 80.0)).ok
            saved = await scene.saved()
            assert saved.accounts["a-1"].admin is AdminState.DRAINED
            assert saved.providers["main-api"].state is CircuitState.FORCED_OPEN
        assert (scene.view("a-1").admin, scene.view("a-1").admin_reason) == (AdminState.DRAINED, "by hand")
        circuit = scene.orchestrator.snapshot().pools[0].provider_circuit
        assert (circuit.state, circuit.cause) == (CircuitState.FORCED_OPEN, "by hand")
        assert max(window.used for window in scene.view("a-2").quota.windows) == 400_000


async def test_what_the_rehearsal_did_already_can_be_ordered_by_hand():
    async with running(two_pools()) as scene:
        with scene.orchestrator.rehearsal(["a-1"]) as rehearsal:
            assert rehearsal.execute(Drain("a-1", "step 1")).ok
            result = scene.orchestrator.execute(Drain("a-1", "by hand"))
            assert (result.ok, result.message) == (True, "a-1 is drained, after the rehearsal too")
        assert scene.view("a-1").admin is AdminState.DRAINED
        assert not scene.orchestrator.execute(Drain("a-1")).ok


async def test_a_circuit_that_is_reset_by_hand_has_forgotten_its_past():
    async with running(two_pools()) as scene:
        await scene.fail("a-1", ErrorCategory.MALFORMED_RESPONSE)
        await scene.fail("a-1", ErrorCategory.RATE_LIMIT, retry_after_s=900.0)
        with scene.orchestrator.rehearsal(["a-1"]):
            assert scene.orchestrator.execute(ResetCircuit(target("a-1"))).ok
            for _ in range(3):
                await scene.fail("a-1", ErrorCategory.MALFORMED_RESPONSE)
        account = scene.view("a-1")
        assert (account.circuit.failures, account.circuit.state) == (0, CircuitState.CLOSED)
        assert account.cooldown_until is None
        assert await scene.answer("a-1") == "a-1"


# -- what is held ------------------------------------------------------------------------------------


async def test_it_holds_providers_with_accounts_and_accounts_with_projects_and_providers():
    shared = [AccountSpec(name, project="one") for name in ("a-1", "a-2")]
    spec = system(pool("main", *shared, "a-3"), pool("other", "b-1"))
    async with running(spec) as scene:
        start = scene.orchestrator.rehearsal
        with start(["a-1"]) as rehearsal:
            assert rehearsal.accounts == {"a-1", "a-2"}
            assert rehearsal.providers == {"main-api"}
            await scene.fail("a-1", ErrorCategory.RATE_LIMIT, retry_after_s=60.0, project_wide=True)
            assert scene.view("a-2").cooldown_until is not None
            outside = rehearsal.execute(Drain("a-3"))
            assert (outside.ok, outside.message) == (False, "a-3 is not part of the rehearsal")
            with pytest.raises(ValueError, match="a-2 is part of another rehearsal"), start(["a-2"]):
                pass
            with pytest.raises(ValueError, match="main-api is part of another rehearsal"), start(["a-3"]):
                pass
            with start([], ["other-api"]) as second:
                assert (second.accounts, second.providers) == ({"b-1"}, {"other-api"})
        assert scene.view("a-2").cooldown_until is None
        assert not rehearsal.execute(Drain("a-1")).ok
        with (
            pytest.raises(ValueError, match="there is no account 'a-11'; did you mean 'a-1'"),
            start(["a-11"]),
        ):
            pass
        with pytest.raises(ValueError, match="at least one"), start([]):
            pass
    with pytest.raises(RuntimeError), start(["a-1"]):
        pass


async def test_sessions_and_turns_go_back_to_where_they_were():
    async with running(two_pools(Strategy.STICKY)) as scene:
        ours = await scene.answer(session="talk")
        with scene.orchestrator.rehearsal(["a-1", "a-2"]) as rehearsal:
            rehearsal.execute(Drain(ours, ""))
            assert await scene.answer(session="talk") != ours
        assert await scene.answer(session="talk") == ours


async def test_closed_in_the_middle_it_is_saved_as_before():
    scene = Scene(two_pools())
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(scene.orchestrator)
        await scene.fail("a-1", ErrorCategory.RATE_LIMIT, retry_after_s=300.0)
        before = dict((await scene.saved()).accounts)
        with scene.orchestrator.rehearsal(["a-1", "a-2"]) as rehearsal:
            rehearsal.execute(ResetCircuit(target("a-1")))
            rehearsal.execute(Disable("a-1", "step"))
            await scene.fail("a-2", ErrorCategory.AUTHENTICATION)
            await scene.answer("b-1")
            await stack.aclose()
    assert scene.store.accounts["a-1"] == before["a-1"]
    assert scene.store.accounts["a-2"] == replace(AccountState(), windows=scene.store.accounts["a-2"].windows)
    assert scene.store.providers == {}
    assert scene.store.accounts["b-1"].requests == 1
