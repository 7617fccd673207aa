"""The recovery log, fed with events as the engine publishes them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smartfallback.model.circuits import CircuitScope, CircuitState, CircuitTarget
from smartfallback.model.decisions import Decision, Rule, Tier
from smartfallback.model.events import (
    Actor,
    AttemptFailed,
    AttemptOutrun,
    AttemptStarted,
    CircuitChanged,
    ConcurrencyChanged,
    CooldownStarted,
    RequestCancelled,
    RequestDegraded,
    RequestFailed,
    RequestFinished,
    RequestQueued,
    RequestRouted,
)
from smartfallback.model.outcomes import AttemptRecord, AttemptResult, ErrorCategory, Failure, NextStep
from smartfallback.model.recoveries import RecoveryAction, RecoveryRecord, RecoveryStatistics, RecoveryView
from smartfallback.model.requests import Degradation, DegradationKind, Origin, Reply, Usage
from smartfallback.policy.recovery import RULES, SwitchScope
from smartfallback.telemetry import recoveries
from smartfallback.telemetry.recoveries import RECENT, RecoveryLog
from support.clock import EPOCH, FakeClock

OVERLOADED = Failure(ErrorCategory.TRANSIENT_ERROR, "overloaded")
BURST = Failure(ErrorCategory.RATE_LIMIT, "slow down")
WALL = Failure(ErrorCategory.QUOTA_EXHAUSTED, "nothing left")
INVALID = Failure(ErrorCategory.INVALID_REQUEST, "no such tool")
FILTERED = Failure(ErrorCategory.CONTENT_FILTERED, "blocked")
TOO_LONG = Failure(ErrorCategory.INVALID_REQUEST, "too long", context_overflow=True)
DECISION = Decision(
    EPOCH, "default", "antigravity", "ag-1", "flash", "hybrid", Rule.BEST_OF_TOP, Tier.NORMAL, (), ()
)
RETRY, SWITCH, DEGRADE, QUEUE, CACHE, SCALE_DOWN, CIRCUIT_BREAK = RecoveryAction


class Scene:
    """Publishes what the engine would, to one log."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = RecoveryLog(self.clock)
        self.seq = 0

    def head(self) -> tuple[int, float]:
        self.seq += 1
        return self.seq, self.clock.time()

    def routed(self, name: str = "r1", chain: str = "default") -> None:
        self.log.on_event(RequestRouted(*self.head(), name, chain, Origin.API, DECISION))

    def started(self, name: str = "r1", account: str = "ag-1", *, hedge: bool = False) -> None:
        seq, at = self.head()
        event = AttemptStarted(seq, at, name, 1, account, "antigravity", "gemini", "flash", DECISION, hedge)
        self.log.on_event(event)

    def failed(
        self,
        then: NextStep,
        name: str = "r1",
        account: str = "ag-1",
        failure: Failure = OVERLOADED,
        provider: str = "gemini",
    ) -> None:
        event = AttemptFailed(*self.head(), name, 1, account, "antigravity", provider, 0.5, failure, then)
        self.log.on_event(event)

    def queued(self, name: str = "r1", failure: Failure = WALL, chain: str = "default") -> None:
        expires_at = self.clock.time() + 60
        self.log.on_event(RequestQueued(*self.head(), name, Origin.API, chain, 0, 1, expires_at, failure))

    def finished(
        self,
        name: str = "r1",
        account: str = "ag-2",
        attempts: int = 2,
        *degraded: DegradationKind,
        cached_age_s: float | None = None,
    ) -> None:
        reply = Reply(
            request_id=name,
            text="Hello",
            account=account,
            pool="antigravity",
            provider="gemini",
            model="flash",
            usage=Usage(1, 1),
            finish_reason="stop",
            attempts=records(attempts),
            latency_s=1.0,
            first_token_s=0.5,
            degradations=tuple(Degradation(kind, "") for kind in degraded),
            cached_age_s=cached_age_s,
        )
        self.log.on_event(RequestFinished(*self.head(), name, Origin.API, reply))

    def refused(self, name: str = "r1", failure: Failure = OVERLOADED, attempts: int = 1) -> None:
        seq, at = self.head()
        event = RequestFailed(
            seq, at, name, Origin.API, "default", failure, records(attempts), 1.0, 0, None, ()
        )
        self.log.on_event(event)

    def cancelled(self, name: str = "r1") -> None:
        self.log.on_event(RequestCancelled(*self.head(), name, Origin.API, (), 1.0))

    def opened(self, scope: CircuitScope, name: str, actor: Actor = Actor.SYSTEM) -> None:
        seq, at = self.head()
        old, new = CircuitState.CLOSED, CircuitState.OPEN
        event = CircuitChanged(seq, at, CircuitTarget(scope, name), old, new, "3 failures", actor, None)
        self.log.on_event(event)

    def concurrency(self, account: str, old: int, new: int) -> None:
        self.log.on_event(ConcurrencyChanged(*self.head(), account, old, new, 8, "overload"))

    @property
    def view(self) -> RecoveryView:
        return self.log.view()

    @property
    def last(self) -> RecoveryRecord:
        return self.log.view().recent[0]


def records(count: int) -> tuple[AttemptRecord, ...]:
    one = AttemptRecord(1, "ag-1", "antigravity", "flash", AttemptResult.FAILED, 0.5, OVERLOADED)
    return (one,) * count


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_answer_after_a_retry_and_a_switch_is_one_recovery(scene: Scene) -> None:
    scene.routed(chain="fast")
    scene.started()
    scene.clock.advance(1.0)
    scene.failed(NextStep.RETRY)
    scene.clock.advance(0.25)
    scene.failed(NextStep.SWITCH_ACCOUNT, failure=BURST)
    scene.failed(NextStep.SWITCH_POOL, account="ag-2")
    scene.clock.advance(0.5)
    scene.finished("r1", "cp-1", 4)
    assert scene.last == RecoveryRecord(
        request_id="r1",
        at=EPOCH + 1.75,
        chain="fast",
        category=ErrorCategory.TRANSIENT_ERROR,
        original_account="ag-1",
        final_account="cp-1",
        actions=(RETRY, SWITCH),
        attempts=4,
        total_s=0.75,
        success=True,
    )


def test_a_request_that_meets_no_error_is_no_recovery(scene: Scene) -> None:
    scene.routed()
    scene.started()
    scene.finished(attempts=1)
    assert scene.view == RecoveryView()


def test_a_request_that_nobody_answers_is_a_recovery_that_failed(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.SWITCH_ACCOUNT)
    scene.failed(NextStep.FAIL, account="ag-2")
    scene.refused(attempts=2)
    assert (scene.last.success, scene.last.final_account, scene.last.actions) == (False, None, (SWITCH,))
    assert scene.view.overall == RecoveryStatistics(1, 0, None)
    assert scene.view.overall.success_rate == 0.0


def test_an_error_with_nothing_left_to_do_counts_as_not_recovered(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.FAIL)
    scene.refused()
    assert (scene.last.success, scene.last.actions) == (False, ())


@pytest.mark.parametrize("category", list(ErrorCategory))
def test_a_failure_at_once_counts_unless_it_is_the_requests_own(
    scene: Scene, category: ErrorCategory
) -> None:
    failure = Failure(category, "no")
    scene.routed()
    scene.failed(NextStep.FAIL, failure=failure)
    scene.refused(failure=failure)
    own = RULES[category].switch is SwitchScope.NONE
    assert scene.view.overall.recoveries == (0 if own else 1)


def test_a_conversation_that_had_to_be_trimmed_was_recovered(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.DEGRADE, failure=TOO_LONG)
    scene.finished("r1", "ag-1", 2, DegradationKind.TRIMMED_HISTORY)
    assert (scene.last.category, scene.last.actions) == (ErrorCategory.INVALID_REQUEST, (DEGRADE,))


def test_a_filtered_answer_that_another_pool_may_give_was_recovered(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.SWITCH_POOL, failure=FILTERED)
    scene.finished("r1", "cp-1")
    assert (scene.last.category, scene.last.actions) == (ErrorCategory.CONTENT_FILTERED, (SWITCH,))


def test_an_answer_that_broke_off_and_went_on_elsewhere_was_switched(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.CONTINUE)
    scene.finished("r1", "ag-2", 2, DegradationKind.CONTINUED)
    assert scene.last.actions == (SWITCH,)


@pytest.mark.parametrize(
    "kind",
    [DegradationKind.TRIMMED_HISTORY, DegradationKind.SHORTER_ANSWER, DegradationKind.CHEAPER_MODEL],
)
def test_an_answer_that_is_less_than_asked_for_was_degraded(scene: Scene, kind: DegradationKind) -> None:
    scene.routed()
    scene.failed(NextStep.SWITCH_ACCOUNT)
    degraded = RequestDegraded(*scene.head(), "r1", Degradation(kind, ""))
    scene.log.on_event(degraded)
    scene.finished("r1", "ag-1", 2, kind)
    assert scene.last.actions == (SWITCH, DEGRADE)


def test_another_pools_answer_is_a_switch_and_nothing_less(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.SWITCH_POOL)
    scene.finished("r1", "cp-1", 2, DegradationKind.FALLBACK_POOL, DegradationKind.RESERVE_QUOTA)
    assert scene.last.actions == (SWITCH,)


def test_a_request_that_was_queued_counts_with_what_kept_it_from_being_asked(scene: Scene) -> None:
    scene.queued(failure=WALL, chain="fast")
    scene.clock.advance(90.0)
    scene.routed(chain="fast")
    scene.started()
    scene.finished("r1", "ag-1", 1)
    record = scene.last
    assert (record.category, record.original_account) == (ErrorCategory.QUOTA_EXHAUSTED, "")
    assert (record.final_account, record.actions, record.total_s) == ("ag-1", (QUEUE,), 90.0)
    assert (record.chain, record.attempts) == ("fast", 1)


def test_the_first_account_that_fails_after_the_queue_is_the_original_one(scene: Scene) -> None:
    scene.queued()
    scene.routed()
    scene.failed(NextStep.QUEUE, account="ag-3")
    scene.queued(failure=OVERLOADED)
    scene.finished("r1", "ag-4")
    record = scene.last
    assert (record.original_account, record.category) == ("ag-3", ErrorCategory.QUOTA_EXHAUSTED)
    assert record.actions == (QUEUE,)


def test_meaning_to_queue_is_not_queueing(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.QUEUE)
    scene.refused()
    assert scene.last.actions == ()


def test_an_earlier_answer_is_a_success_that_no_account_gave(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.CACHE)
    scene.finished("r1", "ag-7", 1, DegradationKind.CACHED, cached_age_s=300.0)
    record = scene.last
    assert (record.actions, record.success, record.final_account) == ((CACHE,), True, None)
    assert record.attempts == 1


def test_an_earlier_answer_counts_when_nobody_could_be_asked(scene: Scene) -> None:
    scene.finished("r1", "ag-7", 0, DegradationKind.CACHED, cached_age_s=300.0)
    record = scene.last
    assert (record.actions, record.success, record.attempts, record.total_s) == ((CACHE,), True, 0, 0.0)
    assert (record.category, record.original_account) == (ErrorCategory.UNKNOWN, "")


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        (CircuitScope.ACCOUNT, "ag-1"),
        (CircuitScope.MODEL, "ag-1/meta/llama"),
        (CircuitScope.PROVIDER, "gemini"),
    ],
)
def test_a_circuit_that_the_failure_opened_is_one_of_the_actions(
    scene: Scene, scope: CircuitScope, name: str
) -> None:
    scene.routed()
    scene.started()
    scene.opened(scope, name)
    scene.log.on_event(CooldownStarted(*scene.head(), "ag-1", None, EPOCH + 5, "overloaded"))
    scene.failed(NextStep.SWITCH_ACCOUNT)
    scene.finished()
    assert scene.last.actions == (CIRCUIT_BREAK, SWITCH)


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        (CircuitScope.ACCOUNT, "ag-11"),
        (CircuitScope.MODEL, "ag-11/flash"),
        (CircuitScope.PROVIDER, "copilot"),
        (CircuitScope.PROVIDER, "ag-1"),
    ],
)
def test_another_ones_circuit_is_not(scene: Scene, scope: CircuitScope, name: str) -> None:
    scene.routed()
    scene.opened(scope, name)
    scene.failed(NextStep.SWITCH_ACCOUNT)
    scene.finished()
    assert scene.last.actions == (SWITCH,)


def test_a_circuit_that_an_operator_opened_is_not(scene: Scene) -> None:
    scene.routed()
    scene.opened(CircuitScope.ACCOUNT, "ag-1", Actor.OPERATOR)
    scene.failed(NextStep.SWITCH_ACCOUNT)
    scene.finished()
    assert scene.last.actions == (SWITCH,)


def test_a_circuit_that_opened_before_is_put_down_to_nobody_later(scene: Scene) -> None:
    scene.routed("r1")
    scene.opened(CircuitScope.ACCOUNT, "ag-1")
    scene.finished("r1", "ag-1", 1)
    scene.routed("r2")
    scene.failed(NextStep.SWITCH_ACCOUNT, "r2")
    scene.finished("r2")
    assert scene.last.actions == (SWITCH,)


def test_one_failure_alone_opened_the_circuit(scene: Scene) -> None:
    scene.routed("r1")
    scene.routed("r2")
    scene.opened(CircuitScope.ACCOUNT, "ag-1")
    scene.failed(NextStep.SWITCH_ACCOUNT, "r1")
    scene.failed(NextStep.SWITCH_ACCOUNT, "r2")
    scene.finished("r1")
    scene.finished("r2")
    assert dict(scene.view.by_action) == {SWITCH: 2, CIRCUIT_BREAK: 1}


def test_fewer_requests_at_once_is_scaling_down_and_more_is_not(scene: Scene) -> None:
    for name, old, new in (("r1", 8, 4), ("r2", 4, 5)):
        scene.routed(name)
        scene.concurrency("ag-1", old, new)
        scene.failed(NextStep.SWITCH_ACCOUNT, name)
        scene.finished(name)
    actions = {record.request_id: record.actions for record in scene.view.recent}
    assert actions == {"r1": (SCALE_DOWN, SWITCH), "r2": (SWITCH,)}


def test_a_caller_that_goes_away_leaves_no_recovery(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.RETRY)
    scene.cancelled()
    scene.routed()
    scene.finished(attempts=1)
    assert scene.view == RecoveryView()


def test_being_outrun_is_no_error(scene: Scene) -> None:
    scene.routed()
    scene.started()
    scene.started(account="ag-2", hedge=True)
    outrun = AttemptOutrun(*scene.head(), "r1", 1, "ag-1", "antigravity", "gemini", 0.5, 2)
    scene.log.on_event(outrun)
    scene.finished()
    assert scene.view == RecoveryView()


def test_statistics_are_kept_of_all_by_category_and_by_action(scene: Scene) -> None:
    for number, (failure, seconds, answered) in enumerate(
        [(OVERLOADED, 1.0, True), (OVERLOADED, 3.0, True), (BURST, 5.0, True), (BURST, 100.0, False)]
    ):
        name = f"r{number}"
        scene.routed(name)
        scene.failed(NextStep.SWITCH_ACCOUNT, name, failure=failure)
        scene.clock.advance(seconds)
        if answered:
            scene.finished(name)
        else:
            scene.refused(name)
    view = scene.view
    assert view.overall == RecoveryStatistics(4, 3, 3.0)
    assert view.overall.success_rate == 0.75
    assert view.by_category == (
        (ErrorCategory.TRANSIENT_ERROR, RecoveryStatistics(2, 2, 2.0)),
        (ErrorCategory.RATE_LIMIT, RecoveryStatistics(2, 1, 5.0)),
    )
    assert view.by_action == ((SWITCH, 4),)


def test_the_latest_hundred_are_listed_newest_first_and_all_are_counted(scene: Scene) -> None:
    for number in range(RECENT + 20):
        scene.routed(f"r{number}")
        scene.failed(NextStep.SWITCH_ACCOUNT, f"r{number}")
        scene.finished(f"r{number}")
    names = [record.request_id for record in scene.view.recent]
    assert names == [f"r{number}" for number in range(RECENT + 19, 19, -1)]
    assert scene.view.overall.recoveries == RECENT + 20


def test_the_view_is_the_same_object_until_a_recovery_ends(scene: Scene) -> None:
    before = scene.view
    scene.routed()
    scene.failed(NextStep.SWITCH_ACCOUNT)
    assert scene.view is before
    scene.finished()
    after = scene.view
    assert after is not before
    scene.routed("r2")
    scene.finished("r2", attempts=1)
    assert scene.view is after


def test_a_clock_that_is_set_back_does_not_change_durations(scene: Scene) -> None:
    scene.routed()
    scene.failed(NextStep.SWITCH_ACCOUNT)
    scene.clock.step_wall_clock(-3_600.0)
    scene.clock.advance(2.0)
    scene.finished()
    assert scene.last.total_s == 2.0


def test_requests_that_never_end_are_forgotten_at_some_point(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recoveries, "MOST_OPEN", 3)
    for number in range(5):
        scene.routed(f"r{number}")
        scene.failed(NextStep.SWITCH_ACCOUNT, f"r{number}")
    for number in range(5):
        scene.finished(f"r{number}")
    assert [record.request_id for record in scene.view.recent] == ["r4", "r3", "r2"]


NAMES = st.sampled_from(["r1", "r2", "r3"])
ACCOUNTS = st.sampled_from(["ag-1", "ag-2"])
FAILURES = st.sampled_from([OVERLOADED, BURST, WALL, INVALID, FILTERED])
STEPS = st.sampled_from(list(NextStep))


class AgainstARecount(RuleBasedStateMachine):
    """The model keeps every event of each request and judges them all when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.told: dict[str, list[tuple[str, Failure, NextStep | None, float]]] = {}
        self.ended: list[tuple[str, ErrorCategory, float, bool]] = []

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.scene.clock.advance(seconds)

    @rule(name=NAMES)
    def routed(self, name: str) -> None:
        self.scene.routed(name)

    @rule(name=NAMES, account=ACCOUNTS, failure=FAILURES, then=STEPS)
    def failed(self, name: str, account: str, failure: Failure, then: NextStep) -> None:
        self.scene.failed(then, name, account, failure)
        self.told.setdefault(name, []).append(("failed", failure, then, self.scene.clock.monotonic()))

    @rule(name=NAMES, failure=FAILURES)
    def queued(self, name: str, failure: Failure) -> None:
        self.scene.queued(name, failure)
        self.told.setdefault(name, []).append(("queued", failure, None, self.scene.clock.monotonic()))

    @rule(name=NAMES, end=st.sampled_from(["finished", "refused", "cancelled"]))
    def ends(self, name: str, end: str) -> None:
        getattr(self.scene, end)(name)
        told = self.told.pop(name, [])
        while told and self.is_its_own_fault(*told[0][:3]):
            del told[0]
        if told and end != "cancelled":
            seconds = self.scene.clock.monotonic() - told[0][3]
            self.ended.append((name, told[0][1].category, seconds, end == "finished"))

    @invariant()
    def agrees_with_a_recount(self) -> None:
        view = self.scene.view
        shown = [(entry.request_id, entry.category, entry.total_s, entry.success) for entry in view.recent]
        assert shown == self.ended[::-1][:RECENT]
        good = [seconds for _, _, seconds, success in self.ended if success]
        mean_s = sum(good) / len(good) if good else None
        assert view.overall == RecoveryStatistics(len(self.ended), len(good), mean_s)
        by_category = Counter(category for _, category, _, _ in self.ended)
        assert {category: tally.recoveries for category, tally in view.by_category} == by_category

    @staticmethod
    def is_its_own_fault(what: str, failure: Failure, then: NextStep | None) -> bool:
        return what == "failed" and then is NextStep.FAIL and failure in (INVALID, FILTERED)


TestAgainstARecount = AgainstARecount.TestCase
TestAgainstARecount.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
