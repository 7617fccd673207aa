"""Quotas from a real endpoint that answers, fails, lies, hangs and flaps: the label tells, nobody waits."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import NamedTuple

import pytest

from smartfallback import (
    AccountSpec,
    AccountView,
    CorrectQuota,
    Orchestrator,
    QuotaHeard,
    QuotaStatus,
    RefreshQuota,
    RequestFinished,
    Secret,
    SkipReason,
    TruthLabel,
    WindowKind,
)
from smartfallback.model.specs import QuotaSourceRule
from smartfallback.simulation.faults import Fault, Flapping, HttpStatus, QuotaApiFault, QuotaTrouble
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName
from support.clock import FakeClock
from support.lab_systems import chain
from support.quota_scene import (
    GEMINI,
    LIMIT,
    OPENAI,
    USED,
    Scene,
    account_of,
    pool_at,
    running,
    scene,
    upstream,
    upstream_account,
)

HANGS = QuotaApiFault(QuotaTrouble.HANG)
REPORTED, ESTIMATED, MEASURED, UNKNOWN, STALE = (
    TruthLabel.REPORTED,
    TruthLabel.ESTIMATED,
    TruthLabel.MEASURED,
    TruthLabel.UNKNOWN,
    TruthLabel.STALE,
)


def truthful(view: AccountView, now: float) -> None:
    """Each number has a label and an age, and an unknown one is no number."""
    for window in view.quota.windows:
        assert (window.label is UNKNOWN) == (window.percent is None)
        assert window.percent is None or (window.read_at is not None and window.read_at <= now)


async def test_no_request_waits_for_a_quota_call_that_hangs():
    async with scene(fault=HANGS) as s:
        async with asyncio.timeout(20):
            await s.lab.until(lambda: s.lab.counters(GEMINI).quota_reads == 2)
        replies = [await s.ask() for _ in range(6)]
        news = s.news()
        assert sum(isinstance(event, RequestFinished) for event in news) == 6
        assert not any(isinstance(event, QuotaHeard) for event in news), "the source had answered meanwhile"
        assert all(len(reply.attempts) == 1 for reply in replies)
        for name in ("ag-1", "ag-2"):
            view = s.account(name)
            truthful(view, s.clock.time())
            bound = view.quota.bound
            assert bound is not None
            assert bound.label is MEASURED
            assert bound.used == s.lab.used(GEMINI, name) - USED
        s.lab.clear_faults()
        assert (await s.heard("ag-1")).label is REPORTED


async def test_a_source_is_given_up_at_its_limit_and_the_account_still_answers():
    async with scene(upstream_account("ag-1"), fault=HANGS) as s:
        told = await s.heard()
        assert (told.label, told.percent_used) == (ESTIMATED, 80.0)
        assert "no answer within 5 s" in told.note
        view = s.account()
        assert view.quota.bound is not None
        assert (view.quota.bound.percent, view.quota.bound.label) == (80.0, ESTIMATED)
        assert view.quota.status is QuotaStatus.WARNING
        assert "no answer within 5 s" in view.quota_note
        assert (await s.ask()).account == "ag-1"


async def test_a_call_that_hangs_is_one_call_however_often_it_is_asked_for():
    async with scene(upstream_account("ag-1"), fault=HANGS) as s:
        async with asyncio.timeout(20):
            await s.lab.until(lambda: s.lab.counters(GEMINI).quota_reads == 1)
        for _ in range(10):
            assert s.orchestrator.execute(RefreshQuota("ag-1")).ok
        await s.ask()
        s.lab.clear_faults()
        await s.heard()
        assert s.lab.counters(GEMINI).quota_reads == 1


class Shown(NamedTuple):
    """What is to be seen of an account: what its source said, and its binding window."""

    heard: TruthLabel
    label: TruthLabel | None
    percent: float | None
    note: str = ""
    status: QuotaStatus = QuotaStatus.HEALTHY


PESSIMISTIC = Shown(ESTIMATED, ESTIMATED, 80.0, "", QuotaStatus.WARNING)
OWN_COUNT = Shown(UNKNOWN, MEASURED, 0.0)
NOTHING = Shown(UNKNOWN, None, None, "", QuotaStatus.UNKNOWN)
QUARTER = Shown(REPORTED, REPORTED, 25.0)
OVER = Shown(REPORTED, REPORTED, 100.00125, "", QuotaStatus.EXHAUSTED)

ODDITIES: list[tuple[Fault | None, Shown, Shown]] = [
    (None, QUARTER, QUARTER),
    (
        QuotaApiFault(QuotaTrouble.ERROR),
        PESSIMISTIC._replace(note="status 503"),
        PESSIMISTIC._replace(note="status 503"),
    ),
    (
        QuotaApiFault(QuotaTrouble.HTML),
        PESSIMISTIC._replace(note="no JSON"),
        PESSIMISTIC._replace(note="no JSON"),
    ),
    (
        QuotaApiFault(QuotaTrouble.EMPTY),
        PESSIMISTIC._replace(note="names no quota"),
        PESSIMISTIC._replace(note="names no quota"),
    ),
    (
        QuotaApiFault(QuotaTrouble.ABSENT),
        OWN_COUNT._replace(note="no such endpoint"),
        NOTHING._replace(note="no such endpoint"),
    ),
    (QuotaApiFault(QuotaTrouble.STRINGS), QUARTER, QUARTER),
    (
        QuotaApiFault(QuotaTrouble.FRACTIONS),
        QUARTER._replace(percent=25.000025),
        QUARTER._replace(percent=25.000025),
    ),
    (QuotaApiFault(QuotaTrouble.NO_DATES), QUARTER, QUARTER),
    (QuotaApiFault(QuotaTrouble.OVERAGE), OVER, OVER),
    (
        QuotaApiFault(QuotaTrouble.NO_FRACTION),
        OWN_COUNT._replace(note="names no share"),
        NOTHING._replace(note="names no share"),
    ),
    (
        QuotaApiFault(QuotaTrouble.PLACEHOLDER),
        OWN_COUNT._replace(note="names no share"),
        NOTHING._replace(note="names no share"),
    ),
]


def _name(value: Fault | Shown | None) -> str:
    """The oddity; what is shown for it needs no place in the test's name."""
    if isinstance(value, QuotaApiFault):
        return value.trouble.value
    return "" if isinstance(value, Shown) else "healthy"


@pytest.mark.parametrize(("fault", "configured", "bare"), ODDITIES, ids=_name)
async def test_each_oddity_is_shown_for_what_it_is(fault: Fault | None, configured: Shown, bare: Shown):
    entries = [upstream_account("ag-1"), upstream_account("ag-2")]
    accounts = [account_of(entries[0]), account_of(entries[1], quota=())]
    async with scene(*accounts, fault=fault) as s:
        await s.until(lambda: all(s.account(entry.id).quota_source for entry in entries))
        heard = {event.account: event for event in s.news() if isinstance(event, QuotaHeard)}
        for name, shown in (("ag-1", configured), ("ag-2", bare)):
            view = s.account(name)
            truthful(view, s.clock.time())
            bound = view.quota.bound
            assert heard[name].label is shown.heard
            assert (None if bound is None else bound.label) is shown.label
            assert (None if bound is None else bound.percent) == (
                None if shown.percent is None else pytest.approx(shown.percent)
            )
            assert view.quota.status is (shown.status if bound is not None else QuotaStatus.UNKNOWN)
            assert shown.note in view.quota_note
            assert (view.skip is not None) == (shown.status is QuotaStatus.EXHAUSTED)
        if configured.status is not QuotaStatus.EXHAUSTED:
            assert (await s.ask(pin="ag-1")).account == "ag-1"
            assert (await s.ask(pin="ag-2")).account == "ag-2"


async def test_a_key_that_the_endpoint_refuses_is_an_estimate_and_no_secret_is_told():
    entry = upstream_account("ag-1")
    wrong = AccountSpec("ag-1", api_key=Secret("not-its-key-7f3a"), quota=account_of(entry).quota)
    async with scene(wrong) as s:
        told = await s.heard()
        assert told.label is ESTIMATED
        assert "refused" in told.note
        assert "7f3a" not in f"{told}{s.account()}"


async def test_a_flapping_source_never_lets_the_quota_fall_and_is_stale_when_it_stays_away():
    async with scene(
        upstream_account("ag-1"), fault=Flapping(QuotaApiFault(QuotaTrouble.ERROR), 20.0), quota_ttl_s=300.0
    ) as s:
        seen = [await s.heard()]
        shares = [s.account().quota.bound]

        async def look() -> None:
            view = await s.refreshed()
            truthful(view, s.clock.time())
            shares.append(view.quota.bound)

        s.clock.advance(10)
        await look()
        s.clock.advance(9)
        await look()
        s.clock.advance(600)
        await s.ask()
        await look()
        s.lab.clear_faults()
        await look()
        labels = [window.label for window in shares if window is not None]
        assert [seen[0].label, *labels] == [ESTIMATED, ESTIMATED, REPORTED, REPORTED, STALE, REPORTED]
        percents = [window.percent for window in shares if window is not None]
        assert percents[:3] == [80.0, 25.0, 25.0]
        assert percents[3] is not None
        assert percents[3] > 25.0
        assert percents[4] == percents[3] == 100.0 * s.lab.used(GEMINI, "ag-1") / LIMIT


@pytest.mark.parametrize("trouble", [QuotaTrouble.NO_FRACTION, QuotaTrouble.PLACEHOLDER])
async def test_an_endpoint_that_answers_without_a_share_lets_its_last_word_go_stale(trouble: QuotaTrouble):
    async with scene(upstream_account("ag-1"), quota_ttl_s=300.0) as s:
        assert (await s.heard()).label is REPORTED
        s.lab.set_fault(GEMINI, QuotaApiFault(trouble))
        s.clock.advance(200)
        assert s.orchestrator.execute(RefreshQuota("ag-1")).ok
        told = await s.heard()
        assert (told.label, told.percent_used) == (REPORTED, 25.0)
        assert "names no share" in told.note
        s.clock.advance(401)
        assert s.orchestrator.execute(RefreshQuota("ag-1")).ok
        assert (await s.heard()).label is STALE
        bound = s.account().quota.bound
        assert bound is not None
        assert (bound.percent, bound.label, bound.read_at) == (25.0, STALE, s.clock.time() - 601)


async def test_a_report_replaces_the_count_and_own_use_since_is_added_as_the_provider_counts_it():
    async with scene(upstream_account("ag-1")) as s:
        await s.heard()
        for _ in range(5):
            await s.ask()
        bound = s.account().quota.bound
        assert bound is not None
        assert bound.used == s.lab.used(GEMINI, "ag-1") > USED
        assert (bound.label, bound.read_at) == (REPORTED, s.clock.time())
        for elsewhere in (600_000.0, 120_000.0):
            s.lab.set_used(GEMINI, "ag-1", elsewhere)
            bound = (await s.refreshed()).quota.bound
            assert bound is not None
            assert bound.used == elsewhere
            await s.ask()
            bound = s.account().quota.bound
            assert bound is not None
            assert bound.used == s.lab.used(GEMINI, "ag-1") > elsewhere


async def test_use_while_the_source_is_asked_is_never_lost():
    async with scene(upstream_account("ag-1"), fault=HANGS) as s:
        async with asyncio.timeout(20):
            await s.lab.until(lambda: s.lab.counters(GEMINI).quota_reads == 1)
        spent = sum([(await s.ask()).usage.total_tokens for _ in range(3)])
        s.lab.clear_faults()
        await s.heard()
        bound = s.account().quota.bound
        assert bound is not None
        assert s.lab.used(GEMINI, "ag-1") <= bound.used <= s.lab.used(GEMINI, "ag-1") + spent
        bound = (await s.refreshed()).quota.bound
        assert bound is not None
        assert bound.used == s.lab.used(GEMINI, "ag-1")


async def test_the_operator_s_correction_holds_until_a_newer_report():
    async with scene() as s:
        await s.until(lambda: all(s.account(name).quota_source for name in ("ag-1", "ag-2")))
        s.clock.advance(1)
        assert s.orchestrator.execute(CorrectQuota("ag-1", 97.0)).ok
        view = s.account()
        assert view.skip is not None
        assert view.skip.reason is SkipReason.HARD_LIMIT
        assert {(await s.ask()).account for _ in range(5)} == {"ag-2"}
        view = await s.refreshed()
        assert view.skip is None
        assert view.quota.bound is not None
        assert (view.quota.bound.percent, view.quota.bound.label) == (25.0, REPORTED)


async def test_a_source_that_is_switched_off_is_never_asked():
    async with scene(upstream_account("ag-1"), quota_source=QuotaSourceRule.NONE) as s:
        await s.ask()
        refused = s.orchestrator.execute(RefreshQuota("ag-1"))
        assert (refused.ok, s.lab.counters(GEMINI).quota_reads) == (False, 0)
        assert s.orchestrator.quota_checks is None


async def test_an_upstream_that_is_down_costs_its_quota_nothing_but_the_label():
    async with scene(upstream_account("ag-1")) as s:
        assert (await s.heard()).label is REPORTED
        s.lab.set_fault(GEMINI, HttpStatus(500))
        view = await s.refreshed()
        assert view.quota.bound is not None
        assert (view.quota.bound.percent, view.quota.bound.label) == (25.0, REPORTED)
        assert "status 500" in view.quota_note


async def test_nine_checks_in_ten_and_more_meet_a_fresh_quota_without_a_call():
    async with scene() as s:
        await s.until(lambda: all(s.account(name).quota_source for name in ("ag-1", "ag-2")))
        for refresh in range(3):
            for _ in range(5):
                s.clock.advance(40)
                await asyncio.gather(*(s.ask() for _ in range(10)))
            s.clock.advance(85)
            await s.until(partial(_reads, s, 2 * (refresh + 2)))
            await s.until(lambda: all(_age(s, name) == 0 for name in ("ag-1", "ag-2")))
        checks = s.orchestrator.quota_checks
        assert checks is not None
        assert checks.checks == 150
        assert checks.share is not None
        assert checks.share > 0.9
        assert s.lab.counters(GEMINI).quota_reads == checks.calls < 0.1 * checks.checks


def _reads(s: Scene, count: int) -> bool:
    return s.lab.counters(GEMINI).quota_reads == count


def _age(s: Scene, name: str) -> float | None:
    bound = s.account(name).quota.bound
    return None if bound is None or bound.read_at is None else s.clock.time() - bound.read_at


async def test_rate_limit_headers_show_as_limits_and_never_bind():
    clock = FakeClock()
    entry = upstream_account("oa-1", quota=None, requests_per_minute=2, tokens_per_minute=9_000)
    async with Lab(clock, random.Random(1), [upstream(DialectName.OPENAI, entry)]) as lab:
        system = chain(pool_at(lab, OPENAI, account_of(entry)))
        async with running(lab, clock, Orchestrator(system, clock=clock, rng=random.Random(1))) as s:
            assert s.account("oa-1").limits == ()
            await s.ask()
            await s.ask()
            view = s.account("oa-1")
            truthful(view, clock.time())
            requests, tokens = sorted(view.limits, key=lambda limit: limit.name)
            assert {requests.kind, tokens.kind} == {None}
            assert (requests.used, requests.limit, requests.percent) == (2, 2, 100.0)
            assert tokens.limit == 9_000
            assert view.quota.bound is not None
            assert (view.quota.bound.kind, view.quota.bound.label) == (WindowKind.WEEK, MEASURED)
            assert view.quota.bound.used == _spent(s)
            assert view.quota.status is QuotaStatus.HEALTHY
            assert view.skip is None


def _spent(s: Scene) -> int:
    return sum(event.reply.usage.total_tokens for event in s.news() if isinstance(event, RequestFinished))
