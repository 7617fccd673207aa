"""Consoles that share their state over a real Redis server, as their system factories make them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartfallback import (
    AccountSpec,
    ChainSpec,
    Drain,
    PoolSpec,
    ProviderKind,
    Secret,
    SharingMode,
    StateSettings,
    StoreKind,
    SystemSpec,
    choose_state,
    demo,
    open_stores,
)
from smartfallback_console.configured import configured_system
from smartfallback_console.system import Engine
from support.redis_servers import RedisServer

SPEC = SystemSpec(
    (
        PoolSpec(
            "orchard",
            ProviderKind.OPENAI,
            "orchard",
            (AccountSpec("tree-1", Secret("k" * 20)), AccountSpec("tree-2", Secret("l" * 20))),
            model="pomona-1",
            base_url="http://127.0.0.1:9/v1",
        ),
    ),
    (ChainSpec("default", ("orchard",)),),
)
PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the other side is another orchestrator and a server
            await asyncio.sleep(0.02)


def names(engine: Engine) -> list[str]:
    return [view.name for view in engine.snapshot().store.instances]


async def test_two_consoles_see_each_other_and_what_is_drained(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(name: str) -> StateSettings:
        return StateSettings(Secret(server.url), SharingMode.STRICT, name, "team")

    async with configured_system(SPEC, settings("desk")) as desk:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
        async with configured_system(SPEC, settings("[laptop]")) as laptop:
            engines: list[Engine] = [desk.orchestrator, laptop.orchestrator]
            await until(lambda: all(len(names(engine)) == 2 for engine in engines))
            assert names(desk.orchestrator) == ["desk", "[laptop]"]
            assert names(laptop.orchestrator) == ["[laptop]", "desk"]
            view = desk.orchestrator.snapshot().store
            assert (view.kind, view.mode) == (StoreKind.REDIS, SharingMode.STRICT)
            assert [instance.here for instance in view.instances] == [True, False]
            assert view.lag_s is not None
            assert desk.orchestrator.execute(Drain("tree-1", "key rotation")).ok

            def seen() -> bool:
                account = laptop.orchestrator.snapshot().account("tree-1")
                return account is not None and account.admin.value == "drained"

            await until(seen)
        await until(lambda: names(desk.orchestrator) == ["desk"])
    assert all(key.startswith("team:") for key in server.command("KEYS", "*"))


async def test_two_demos_share_under_a_prefix_of_their_own(server: RedisServer) -> None:
    state = choose_state(None, server.url)
    one, two = (open_stores(state, keep=False) for _ in range(2))
    async with (
        demo(traffic=False, weather=False, shared=one.shared, sharing=one.sharing) as first,
        demo(traffic=False, weather=False, shared=two.shared, sharing=two.sharing) as second,
    ):
        systems = (first.orchestrator, second.orchestrator)
        await until(lambda: all(len(names(system)) == 2 for system in systems))
        assert first.orchestrator.snapshot().simulated
    assert all(key.startswith("smartfallback-demo:") for key in server.command("KEYS", "*"))


async def test_a_demo_by_itself_keeps_all_in_memory() -> None:
    async with demo(traffic=False, weather=False) as running:
        view = running.orchestrator.snapshot().store
        assert (view.kind, view.instances, view.degraded_since) == (StoreKind.MEMORY, (), None)


async def test_a_server_that_is_not_there_keeps_no_console_from_starting() -> None:
    state = StateSettings(Secret("redis://127.0.0.1:1/0"))
    async with configured_system(SPEC, state) as system:
        await until(lambda: system.orchestrator.snapshot().store.degraded_since is not None)
        view = system.orchestrator.snapshot().store
        assert view.trouble == "connection refused"
        assert not view.slow
