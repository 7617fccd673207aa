"""One Redis server for the tests that leave it alone, each under a prefix of its own; and quick hearts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.redis_servers import RedisServer


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that the test may treat as it likes."""
    with RedisServer() as own:
        yield own


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens once a second happens more often, so that no test waits for it."""
    monkeypatch.setattr("smartfallback.engine.sharing.sharing.HEARTBEAT_S", 0.2)
    monkeypatch.setattr("smartfallback.engine.sharing.quota_share.POLL_S", 0.2)
