"""Providers that can't run here: said, skipped, and noticed when they can."""

from __future__ import annotations

import pytest

from smartfallback import ProviderNotice, RequestError, SkipReason
from support.scripted import ask, pool, system


async def test_a_missing_provider_is_skipped_with_what_to_do_and_noticed_when_it_comes(
    start, upstream, clock
):
    upstream.missing = "install it"
    orchestrator = await start(system(pool("main", "a-1")))
    view = orchestrator.snapshot().pools[0]
    assert view.unavailable == "install it"
    assert view.accounts[0].skip.reason is SkipReason.UNAVAILABLE
    with pytest.raises(RequestError, match="install it"):
        await orchestrator.chat(ask())
    events = orchestrator.subscribe()
    upstream.missing = ""
    orchestrator._maintenance.check(clock.monotonic())
    assert next(type(event) for event in events.drain()[0]) is ProviderNotice
    assert (await orchestrator.chat(ask())).account == "a-1"


async def test_an_adapter_that_fails_to_say_so_takes_no_other_pool_with_it(start, upstream, clock):
    orchestrator = await start(system(pool("main", "a-1")))
    upstream.fault = KeyError("secret")
    orchestrator._maintenance.check(clock.monotonic())
    assert orchestrator.snapshot().pools[0].unavailable == "its adapter failed with KeyError"
    upstream.fault = None
    orchestrator._maintenance.check(clock.monotonic())
    assert (await orchestrator.chat(ask())).account == "a-1"
