"""One Redis server for the tests that leave it alone, each under a prefix of its own."""

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
