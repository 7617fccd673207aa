"""What is done or met at one instance is so at the others."""

from __future__ import annotations

import asyncio
import time

import pytest

from smartfallback import (
    AccountSpec,
    AdminState,
    CircuitState,
    CloseCircuit,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    ErrorCategory,
    OpenCircuit,
    QuotaUnit,
    RefreshQuota,
    ResetCircuit,
    Resume,
    SetCircuitMode,
    SkipReason,
    TruthLabel,
    WindowKind,
)
from smartfallback.model.events import AdminChanged, AttentionRaised, CircuitChanged, CooldownStarted
from smartfallback.model.quota import QuotaReading, WindowReading
from smartfallback.quota_sources.refresher import Watch
from support.scripted import ANSWER, Pause, ask, failure
from support.sharers import API, both_heard, make, of_account, of_model, sharing, told
from support.waiting import until


async def test_admin_states_follow_the_operator_wherever_he_is(url):
    async with sharing(url, "A B C") as (one, two, three):
        one.do(Drain("a1", "a new key is due"))
        for other in (two, three):
            await until(lambda other=other: other.account("a1").admin is AdminState.DRAINED)
            assert other.account("a1").admin_reason == "a new key is due"
            assert not await other.answered("a1")
        three.do(Resume("a1"))
        for other in (one, two):
            await until(lambda other=other: other.account("a1").admin is AdminState.ACTIVE)
            assert await other.answered("a1")
        two.do(Disable("a1", "for good"))
        for other in (one, three):
            await until(lambda other=other: other.account("a1").admin is AdminState.DISABLED)
        one.do(Enable("a1"))
        for other in (two, three):
            await until(lambda other=other: other.account("a1").admin is AdminState.ACTIVE)
        # Each of the four was told once.
        assert [each.heard(AdminChanged, "a1") for each in (one, two, three)] == [4, 4, 4]


async def test_an_account_that_drains_elsewhere_finishes_here_what_it_has_begun(url):
    async with sharing(url) as (one, two):
        pause = Pause()
        two.upstream.queue("a1", (pause, *ANSWER))
        running = asyncio.create_task(two.orchestrator.chat(ask(pin="a1")))
        await pause.reached.wait()
        one.do(Drain("a1"))
        await until(lambda: two.account("a1").admin is AdminState.DRAINING)
        assert one.account("a1").admin is AdminState.DRAINED
        pause.go_on.set()
        assert (await running).account == "a1"
        assert two.account("a1").admin is AdminState.DRAINED
        await both_heard(one, two)
        assert one.account("a1").admin is AdminState.DRAINED


async def test_refused_credentials_and_their_mending(url):
    async with sharing(url) as (one, two):
        await one.fails("a2", ErrorCategory.AUTHENTICATION, message="no such key")
        await until(lambda: two.account("a2").attention)
        assert "no such key" in two.account("a2").attention
        assert two.heard(AttentionRaised, "a2") == 1
        two.do(Enable("a2"))
        await until(lambda: not one.account("a2").attention)
        assert await one.answered("a2")


async def test_a_stated_wait_holds_for_all_and_ends_at_one_time(url):
    async with sharing(url) as (one, two):
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=600.0)
        await until(lambda: two.account("a1").cooldown_until)
        theirs, ours = one.account("a1"), two.account("a1")
        assert ours.cooldown_until == pytest.approx(theirs.cooldown_until, abs=0.5)
        assert ours.cooldown_reason == theirs.cooldown_reason
        # A longer one extends, a shorter one does not shorten.
        await two.fails("a2", ErrorCategory.RATE_LIMIT, retry_after_s=900.0)
        await until(lambda: one.account("a2").cooldown_until)
        two.do(ResetCircuit(of_account("a1")))
        await until(lambda: one.account("a1").cooldown_until is None)
        assert one.account("a2").cooldown_until is not None
        assert two.heard(CooldownStarted, "a1") == 1


async def test_answers_of_one_burst_are_one_rest_for_all(url):
    async with sharing(url) as (one, two):
        pauses = [Pause() for _ in range(6)]
        for number, pause in enumerate(pauses):
            limited = failure(ErrorCategory.RATE_LIMIT, retry_after_s=600.0 + number / 10)
            one.upstream.queue("a1", (pause, limited))
        asked = [asyncio.create_task(one.answered("a1")) for _ in pauses]
        for pause in pauses:
            await pause.reached.wait()
        for pause, task in zip(pauses, asked, strict=True):
            pause.go_on.set()
            assert not await task
            await told(one, two)
        assert two.account("a1").cooldown_until == pytest.approx(time.time() + 600.5, abs=5)
        assert one.heard(CooldownStarted, "a1") == two.heard(CooldownStarted, "a1") == 1


async def test_a_rest_of_one_model_leaves_the_account(url):
    async with sharing(url) as (one, two):
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=600.0, model="cloud-model")
        await until(lambda: two.account("a1").cooldown_until)
        skip = two.account("a1").skip
        assert skip is not None
        assert skip.reason is SkipReason.COOLDOWN
        # Another model of it is asked.
        (account,) = [each for each in two.orchestrator._roster.accounts.values() if each.id == "a1"]
        assert list(account.model_blocks) == ["cloud-model"]
        assert account.cooldown_until is None
        assert two.account("a1").circuit.state is CircuitState.CLOSED
        one.do(ResetCircuit(of_account("a1")))
        await until(lambda: two.account("a1").cooldown_until is None)
        assert await two.answered("a1")


async def test_a_named_wall_and_its_fall(url):
    async with sharing(url) as (one, two):
        await one.fails("a1", ErrorCategory.QUOTA_EXHAUSTED, retry_after_s=5_000.0)
        await until(lambda: two.account("a1").quota.exhausted_until)
        assert two.account("a1").quota.exhausted_until == pytest.approx(time.time() + 5_000, abs=10)
        two.do(CorrectQuota("a1", percent_used=20.0))
        await until(lambda: one.account("a1").quota.exhausted_until is None)
        await until(lambda: one.account("a1").quota.windows[0].used == 2_000.0)
        assert await one.answered("a1")


class Source:
    """A quota source that is asked when an operator wants it to."""

    name = "test source"
    ttl_s = 3_600.0
    missing_retry_s = 3_600.0
    estimates_when_missing = False
    assumed_kind = WindowKind.WEEK

    def __init__(self) -> None:
        self.percent = 10.0
        self.asked = 0
        self.pause: Pause | None = None

    async def read(self, account: AccountSpec) -> QuotaReading:
        self.asked += 1
        if self.pause is not None:
            self.pause.reached.set()
            await self.pause.go_on.wait()
        read_at = time.time()
        window = WindowReading("week", WindowKind.WEEK, QuotaUnit.TOKENS, percent_used=self.percent)
        return QuotaReading(account.id, self.name, TruthLabel.REPORTED, read_at, (window,), note="as told")

    async def aclose(self) -> None:
        pass


def watch(source: Source, sharer_spec: AccountSpec) -> dict[str, Watch]:
    return {sharer_spec.id: Watch(sharer_spec, source)}


async def test_corrections_reach_all_and_go_on_counting(url):
    async with sharing(url) as (one, two):
        assert await one.answered("a1")
        # What the corrector does not know of yet comes on top of his word.
        await until(lambda: two.account("a1").quota.windows[0].used == 15.0)
        two.do(CorrectQuota("a1", percent_used=60.0))
        await until(lambda: one.account("a1").quota.windows[0].used == 6_000.0)
        assert one.account("a1").quota.windows[0].label is TruthLabel.REPORTED
        assert await one.answered("a1")
        for sharer in (one, two):
            await until(lambda sharer=sharer: sharer.account("a1").quota.windows[0].used == 6_015.0)


CIRCUIT_MODES = (CircuitState.DISABLED, CircuitState.OBSERVE_ONLY, CircuitState.HALF_OPEN)


@pytest.mark.parametrize("target", [of_account("a1"), API], ids=str)
async def test_what_an_operator_makes_of_a_circuit(url, target):
    async with sharing(url) as (one, two):
        one.do(OpenCircuit(target, "they say so"))
        await until(lambda: two.state(target) is CircuitState.FORCED_OPEN)
        assert two.circuit(target).cause == "they say so"
        assert not await two.answered("a1")
        for mode in CIRCUIT_MODES:
            two.do(CloseCircuit(target, "all is well"))
            await until(lambda: one.state(target) is CircuitState.CLOSED)
            assert await one.answered("a1")
            one.do(SetCircuitMode(target, mode, "to see"))
            await until(lambda mode=mode: two.state(target) is mode)
        two.do(ResetCircuit(target))
        await until(lambda: one.state(target) is CircuitState.CLOSED)


@pytest.mark.parametrize("target", [of_account("a1"), API], ids=str)
async def test_a_hold_that_is_prolonged_or_explained_anew_is_so_for_all(url, target):
    async with sharing(url) as (one, two):
        one.do(OpenCircuit(target, "for a minute", 60.0))
        await until(lambda: two.circuit(target).until is not None)
        one.do(OpenCircuit(target, "until further notice"))
        await until(lambda: two.circuit(target).until is None)
        assert two.circuit(target).cause == "until further notice"
        changed = [each for each in two.events if isinstance(each, CircuitChanged)]
        assert len(changed) == 1
        two.do(CloseCircuit(target, "it is back"))
        await until(lambda: one.state(target) is CircuitState.CLOSED)
        await both_heard(one, two)
        assert two.state(target) is CircuitState.CLOSED


async def test_a_circuit_of_a_model_that_only_one_instance_has_met(url):
    model = of_model("a1")
    async with sharing(url) as (one, two):
        # So short a rest is over when it could be told.
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=0.01, model="cloud-model")
        assert one.account("a1").model_circuits
        one.do(OpenCircuit(model, "it answers nonsense"))
        await until(lambda: two.account("a1").model_circuits)
        assert two.state(model) is CircuitState.FORCED_OPEN
        two.do(CloseCircuit(model, "it does not"))
        await until(lambda: one.state(model) is CircuitState.CLOSED)


async def test_who_comes_later_finds_all_as_it_is(url):
    prefix = "who-comes-later"
    async with sharing(url, "A", prefix=prefix) as (one,):
        await one.fails("a3", ErrorCategory.AUTHENTICATION)
        one.do(Drain("a1", "by hand"))
        one.do(OpenCircuit(of_account("a2"), "by hand too"))
        one.do(OpenCircuit(API, "and this", 600.0))
        # What is not told yet is told at its end.
    async with sharing(url, "B", prefix=prefix) as (two,):
        # At once: nothing has to be waited for.
        assert two.account("a1").admin is AdminState.DRAINED
        assert two.state(of_account("a2")) is CircuitState.FORCED_OPEN
        assert two.state(API) is CircuitState.FORCED_OPEN
        assert two.circuit(API).until == pytest.approx(time.time() + 600, abs=10)
        assert two.account("a3").attention


async def test_a_reading_is_asked_for_once_and_known_to_all(url):
    source = Source()
    account = AccountSpec("a1")
    async with sharing(url, sources=watch(source, account)) as (one, two):
        await until(lambda: one.account("a1").quota_source)
        source.percent = 35.0
        one.do(RefreshQuota("a1"))
        await until(lambda: two.account("a1").quota.windows[0].used == 3_500.0)
        assert two.account("a1").quota_note == "as told"
        assert two.account("a1").quota.windows[0].label is TruthLabel.REPORTED


async def test_whoever_comes_is_counted_at_once(url, monkeypatch):
    monkeypatch.setattr("smartfallback.engine.sharing.sharing.HEARTBEAT_S", 600.0)
    async with sharing(url) as (one, two):
        await until(lambda: len(one.orchestrator.snapshot().store.instances) == 2)
        assert len(two.orchestrator.snapshot().store.instances) == 2


async def test_what_is_spent_while_the_own_source_is_asked_counts_though_another_answers_first(url):
    ours, theirs = Source(), Source()
    prefix = "two-sources"
    one = make("A", url, prefix, sources=watch(theirs, AccountSpec("a1")))
    two = make("B", url, prefix, sources=watch(ours, AccountSpec("a1")))
    async with one.orchestrator, two.orchestrator:
        for sharer in (one, two):
            await until(lambda sharer=sharer: sharer.account("a1").quota.windows[0].used == 1_000.0)
        ours.pause = Pause()
        two.do(RefreshQuota("a1"))
        await ours.pause.reached.wait()
        assert await two.answered("a1")
        theirs.percent = 35.0
        one.do(RefreshQuota("a1"))
        await until(lambda: two.account("a1").quota.windows[0].used >= 3_500.0)
        ours.percent = 40.0
        ours.pause.go_on.set()
        await until(lambda: two.account("a1").quota.windows[0].used >= 4_000.0)
        assert two.account("a1").quota.windows[0].used == 4_015.0
