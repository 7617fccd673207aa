"""What an instance keeps of its slice while it asks, and windows that it has not begun itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from smartfallback.model.sharing import AccountReport
from support.quota_store import ACCOUNT, KEY, LEASE, QuotaStore, window
from support.redis_servers import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(unix=True) as running:
        yield running


@pytest.fixture
def store(server: RedisServer) -> QuotaStore:
    return QuotaStore(server)


def test_what_an_instance_keeps_is_nobody_elses_though_it_asks_for_less(store: QuotaStore) -> None:
    store.report("a", window(0, want=40))
    reply = store.report("a", replace(window(0, want=5), keeps=40))
    assert reply.windows[KEY].ceilings == {"a": 40}
    assert store.report("b", window(0, want=1000, need=80)).windows[KEY].ceilings["b"] == 60


def test_what_it_keeps_no_longer_is_free(store: QuotaStore) -> None:
    store.report("a", window(0, want=40))
    store.report("a", replace(window(0, want=5), keeps=5))
    assert store.report("b", window(0, want=1000, need=80)).windows[KEY].ceilings["b"] == 80


def test_a_window_that_others_have_begun_is_told_of(store: QuotaStore) -> None:
    store.report("a", window(30))
    curious = AccountReport(ACCOUNT, (), also=(KEY, "day.tokens.0"))
    (reply,) = asyncio.run(store.scripts("b").report("b", [curious], lease_s=LEASE))
    assert reply.windows[KEY].used == 30
    assert set(reply.windows) == {KEY}
