"""The quota endpoint of a simulated Gemini deployment, well and ill, through the real source."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from smartfallback.model.quota import QuotaReading, TruthLabel, WindowKind
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind, QuotaSourceRule
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.gemini import GeminiQuotaSource
from smartfallback.quota_sources.refresher import QuotaRefresher
from smartfallback.quota_sources.registry import sources_for
from smartfallback.simulation.faults import (
    Flapping,
    HttpStatus,
    KeyRevoked,
    QuotaApiFault,
    QuotaTrouble,
    ResetConnection,
)
from smartfallback.simulation.lab import Lab
from support.clock import FakeClock
from support.simulated import MODEL, ask, key, running_lab, upstream

ACCOUNT = AccountSpec("gemini-1", key("gemini-1"))
OTHER = AccountSpec("gemini-2", key("gemini-2"))


def pool(lab: Lab, *accounts: AccountSpec, path: str = "") -> PoolSpec:
    return PoolSpec(
        "gemini",
        ProviderKind.GEMINI,
        "gemini",
        accounts or (ACCOUNT,),
        model=MODEL,
        base_url=lab.base_url("gemini") + path,
    )


@asynccontextmanager
async def lab_with(trouble: Any = None, clock: FakeClock | None = None) -> AsyncIterator[Lab]:
    async with running_lab(clock or FakeClock(), upstream("gemini")) as lab:
        lab.set_used("gemini", "gemini-1", 25_000)
        if trouble is not None:
            lab.set_fault("gemini", trouble)
        yield lab


async def read(spec: PoolSpec, clock: FakeClock | None = None) -> QuotaReading:
    source = GeminiQuotaSource(spec, clock or FakeClock())
    try:
        return await source.read(spec.accounts[0])
    finally:
        await source.aclose()


async def test_each_account_is_told_its_own_truth() -> None:
    async with lab_with() as lab:
        first, second = await read(pool(lab)), await read(pool(lab, OTHER))
        assert (first.percent, second.percent) == (25.0, 0.0)
        (window,) = first.windows
        assert (window.kind, window.used, window.limit) == (WindowKind.WEEK, 25_000, 100_000)
        assert window.resets_at is not None
        assert first.label is TruthLabel.REPORTED
        assert lab.counters("gemini", "gemini-1").quota_reads == 1
        assert lab.counters("gemini", "gemini-1").requests == 0


@pytest.mark.parametrize("path", ["", "/", "/v1beta", "/v1"])
async def test_a_base_url_with_a_version_is_understood(path: str) -> None:
    async with lab_with() as lab:
        assert (await read(pool(lab, path=path))).percent == 25.0


async def test_the_address_is_a_setting() -> None:
    async with lab_with() as lab:
        spec = replace(pool(lab), base_url="http://127.0.0.1:9")
        root = lab.base_url("gemini")
        for url in (root, f"{root}/v1beta/quotaStatus"):
            assert (await read(replace(spec, quota_url=url))).percent == 25.0
        assert (await read(replace(pool(lab), quota_url="/v1beta/quotaStatus"))).percent == 25.0
        with pytest.raises(QuotaSourceError) as caught:
            await read(replace(pool(lab), quota_url="/elsewhere"))
        assert caught.value.kind is QuotaFault.MISSING


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (QuotaApiFault(QuotaTrouble.ABSENT), QuotaFault.MISSING),
        (QuotaApiFault(QuotaTrouble.ERROR), QuotaFault.UNAVAILABLE),
        (QuotaApiFault(QuotaTrouble.HTML), QuotaFault.MALFORMED),
        (QuotaApiFault(QuotaTrouble.EMPTY), QuotaFault.MALFORMED),
        (ResetConnection(), QuotaFault.UNAVAILABLE),
        (HttpStatus(500), QuotaFault.UNAVAILABLE),
        (HttpStatus(401), QuotaFault.UNAUTHORIZED),
        (HttpStatus(403), QuotaFault.UNAUTHORIZED),
        (HttpStatus(429), QuotaFault.UNAVAILABLE),
        (HttpStatus(302), QuotaFault.UNAVAILABLE),
        (KeyRevoked(), QuotaFault.UNAUTHORIZED),
        (HttpStatus(400), QuotaFault.UNAVAILABLE),
    ],
)
async def test_each_failure_is_told_apart(trouble: Any, kind: QuotaFault) -> None:
    async with lab_with(trouble) as lab:
        with pytest.raises(QuotaSourceError) as caught:
            await read(pool(lab))
    assert caught.value.kind is kind
    assert key("gemini-1").reveal() not in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "percent", "label"),
    [
        (QuotaTrouble.STRINGS, 25.0, TruthLabel.REPORTED),
        (QuotaTrouble.FRACTIONS, 25.00025, TruthLabel.REPORTED),
        (QuotaTrouble.NO_DATES, 25.0, TruthLabel.REPORTED),
        (QuotaTrouble.OVERAGE, 100.0125, TruthLabel.REPORTED),
        (QuotaTrouble.NO_FRACTION, None, TruthLabel.UNKNOWN),
        (QuotaTrouble.PLACEHOLDER, None, TruthLabel.UNKNOWN),
    ],
)
async def test_each_oddity_is_read_right(
    trouble: QuotaTrouble, percent: float | None, label: TruthLabel
) -> None:
    async with lab_with(QuotaApiFault(trouble)) as lab:
        reading = await read(pool(lab))
    assert reading.label is label
    assert reading.percent == (None if percent is None else pytest.approx(percent))


async def test_calls_for_answers_don_t_notice_a_quota_endpoint_that_hangs() -> None:
    clock = FakeClock()
    async with lab_with(QuotaApiFault(QuotaTrouble.HANG), clock) as lab:
        told: list[QuotaReading] = []
        watches = sources_for(pool(lab), clock)
        async with QuotaRefresher(watches, clock, told.append, random.Random(1), timeout_s=0.05) as refresher:
            asking = refresher.refresh_now("gemini-1")
            answer = await ask(lab, "gemini", clock)
            assert answer.failure is None
            assert ((await asking).percent, told[-1].label) == (80.0, TruthLabel.ESTIMATED)


async def test_a_flapping_endpoint_is_stale_or_fresh_and_never_wrong() -> None:
    clock = FakeClock()
    flapping = Flapping(QuotaApiFault(QuotaTrouble.HTML), period_s=3000.0, down_share=0.5)
    labels = set()
    async with lab_with(flapping, clock) as lab:
        told: list[QuotaReading] = []
        refresher = QuotaRefresher(sources_for(pool(lab), clock), clock, told.append, random.Random(1))
        try:
            for _ in range(600):
                refresher.tick()
                await refresher.settled()
                reading = refresher.current("gemini-1")
                assert reading is not None
                labels.add(reading.label)
                assert reading.percent == (80.0 if reading.label is TruthLabel.ESTIMATED else 25.0)
                age = reading.age(clock.time())
                assert age <= 600 or reading.label is not TruthLabel.REPORTED
                clock.advance(15)
        finally:
            await refresher.aclose()
    assert labels == {TruthLabel.ESTIMATED, TruthLabel.REPORTED, TruthLabel.STALE}


async def test_a_hundred_callers_are_one_call_on_the_wire() -> None:
    clock = FakeClock()
    async with lab_with(clock=clock) as lab:
        watches = sources_for(pool(lab, ACCOUNT, OTHER), clock)
        refresher = QuotaRefresher(watches, clock, lambda _: None, random.Random(1))
        try:
            readings = await asyncio.gather(*(refresher.refresh_now("gemini-1") for _ in range(100)))
        finally:
            await refresher.aclose()
        assert {reading.percent for reading in readings} == {25.0}
        assert lab.counters("gemini").quota_reads == 1


async def test_pools_without_a_source() -> None:
    async with lab_with() as lab:
        assert sources_for(replace(pool(lab), quota_source=QuotaSourceRule.NONE), FakeClock()) == {}
        for kind in (ProviderKind.OPENAI, ProviderKind.OPENCODE, ProviderKind.LOCAL):
            assert sources_for(replace(pool(lab), provider=kind), FakeClock()) == {}


async def test_the_ttl_is_a_setting() -> None:
    async with lab_with() as lab:
        (watch,) = sources_for(replace(pool(lab), quota_ttl_s=90.0), FakeClock()).values()
        assert watch.source.ttl_s == 90.0
        await watch.source.aclose()
        (watch,) = sources_for(pool(lab), FakeClock()).values()
        assert 300 <= watch.source.ttl_s <= 600
        await watch.source.aclose()
