"""``smartfallback check`` says whether what keeps the state can be used, against real files and servers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback.cli.reachability import Reach
from smartfallback.cli.state_check import SILENT, check_file, check_redis
from smartfallback.config import StateSettings
from smartfallback.model.secrets import Secret
from smartfallback.model.state import AccountState, SystemState
from smartfallback.state.sqlite import SqliteStateStore
from support.command import Inside, contents
from support.redis_servers import RedisServer

PASSWORD = "pa55word-of-the-store"
# Copilot's tool is not there, so that the accounts need no server.
ACCOUNTS = """\
[pools.a]
provider = "copilot"
command = ["/no/such/tool"]
accounts = [{ id = "co-1" }]
[chains.default]
pools = ["a"]
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(password=PASSWORD) as running:
        yield running


def settings(url: str) -> StateSettings:
    return StateSettings(Secret(url), source="--redis-url")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(tmp_path, monkeypatch, capsys)


def config(folder: Path, state: str = "") -> Path:
    path = folder / "config.toml"
    path.write_text(ACCOUNTS + state)
    path.chmod(0o600)
    return path


def test_both_stores_are_told_in_words_and_for_programs(
    tmp_path: Path, server: RedisServer, inside: Inside
) -> None:
    path = config(tmp_path, '[state]\nredis_url = { env = "URL" }\nmode = "strict"\n')
    variables = {"URL": server.url, "XDG_STATE_HOME": str(tmp_path / "state")}
    told = inside.run("check", "--config", path, **variables)
    assert told.returncode == 1  # the account's tool is missing
    for part in ("Redis 6.", "standalone", "takes writes", "ms away", "its clock", "not there yet"):
        assert part in told.stdout
    assert told.stdout.splitlines()[-1] == "0 of 1 accounts can be used."

    found = json.loads((inside.run("check", "--config", path, "--json", **variables)).stdout)
    kept, shared = found["state"]
    assert (kept["kind"], kept["status"], kept["usable"]) == ("sqlite", "ok", True)
    assert (shared["kind"], shared["status"], shared["usable"]) == ("redis", "ok", True)
    assert shared["place"] == f"redis://127.0.0.1:{server.port}"
    assert (shared["form"], shared["mode"]) == ("standalone", "strict")
    assert (shared["source"], shared["prefix"]) == ("redis_url in [state]", "smartfallback")
    assert shared["reachable"]
    assert shared["within_request_limit"]
    assert shared["version"].startswith("6.")
    assert 0 < shared["round_trip_ms"] < 1_000
    assert abs(shared["clock_offset_s"]) < 1
    assert PASSWORD not in told.stdout + told.stderr + json.dumps(found)


def test_option_and_environment_go_before_the_file(
    tmp_path: Path, server: RedisServer, inside: Inside
) -> None:
    path = config(tmp_path, '[state]\nredis_url = "redis://127.0.0.1:1"\n')
    by_option = inside.run("check", "--config", path, "--json", "--redis-url", server.url)
    by_variable = inside.run("check", "--config", path, "--json", SMARTFALLBACK_REDIS_URL=server.url)
    by_file = inside.run("check", "--config", path, "--json")
    found = [json.loads(done.stdout)["state"][1] for done in (by_option, by_variable, by_file)]
    assert [(store["source"], store["status"]) for store in found] == [
        ("--redis-url", "ok"),
        ("SMARTFALLBACK_REDIS_URL", "ok"),
        ("redis_url in [state]", "unreachable"),
    ]
    assert "connection refused" in found[2]["detail"]
    assert "start it" in found[2]["suggestion"]


def test_a_wrong_address_is_refused_without_its_password(tmp_path: Path, inside: Inside) -> None:
    done = inside.run("check", "--config", config(tmp_path), "--redis-url", f"redis://:{PASSWORD}@h:0")
    assert done.returncode == 2
    assert "--redis-url: a port is not a number from 1 to 65535" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_what_is_typed_in_a_wrong_place_is_not_repeated_either(tmp_path: Path, inside: Inside) -> None:
    done = inside.run("check", f"redis://:{PASSWORD}@host/0")
    assert done.returncode == 2
    assert "***@host" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_when_the_server_cannot_be_used_the_exit_code_is_1_and_nothing_else_is_printed(
    tmp_path: Path, inside: Inside
) -> None:
    done = inside.run("check", "--config", config(tmp_path), "--redis-url", "redis://127.0.0.1:1")
    assert done.returncode == 1
    assert "do: start it, or check host and port" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 of 1 accounts can be used, the state can't."
    assert "going on from memory" not in done.stderr  # the log's words, for those who run on


async def test_a_server_that_is_not_let_in_is_told(server: RedisServer) -> None:
    for url in (server.url.replace(PASSWORD, "another"), server.url.replace(f":{PASSWORD}@", "")):
        found = await check_redis(settings(url))
        assert found.reach is Reach.REFUSED
        assert "password" in found.detail
        assert "redis://USER:PASSWORD@HOST:PORT" in found.suggestion
        assert PASSWORD not in f"{found}"


async def test_a_replica_a_full_one_and_one_that_forgets_are_told(server: RedisServer) -> None:
    with RedisServer(replica_of=server) as replica:
        found = await check_redis(settings(replica.url))
    assert found.reach is Reach.FAILING
    assert "replica" in found.detail
    assert "redis+sentinel://" in found.suggestion
    server.command("CONFIG", "SET", "maxmemory", "1")
    found = await check_redis(settings(server.url))
    assert (found.reach, found.detail) == (Reach.FAILING, "its memory is full")
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = await check_redis(settings(server.url))
    assert found.reach is Reach.OK
    assert found.facts["evicts"] == "allkeys-lru"
    assert "noeviction" in found.suggestion


async def test_a_silent_server_a_wrong_name_and_a_missing_socket_are_told(
    server: RedisServer, tmp_path: Path
) -> None:
    server.freeze()
    try:
        silent = await check_redis(settings(server.url))
    finally:
        server.thaw()
    assert silent.reach is Reach.UNREACHABLE
    assert silent.detail in (SILENT, "it does not answer")
    socket = await check_redis(settings(f"unix://{tmp_path}/none.sock"))
    assert (socket.reach, socket.detail) == (Reach.UNREACHABLE, "its socket is not there")
    assert "path" in socket.suggestion


async def test_a_state_file_is_told_with_size_and_format(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    missing = check_file(path)
    assert missing.reach is Reach.OK
    assert not path.exists()  # looking at it makes nothing
    store = SqliteStateStore(path)
    await store.load(("a-1",), ())
    await store.save(SystemState({"a-1": replace(AccountState(), requests=3)}, {}))
    await store.aclose()
    before = path.read_bytes()
    found = check_file(path)
    assert found.reach is Reach.OK
    assert found.facts["bytes"] == len(before)
    assert f"format {found.facts['format']}" in found.detail
    assert path.read_bytes() == before
    assert list(contents(tmp_path)) == ["state.db"]


def test_state_files_that_cannot_be_used_are_told_with_what_to_do(tmp_path: Path) -> None:
    damaged, foreign, newer, folder = (tmp_path / name for name in ("damaged", "foreign", "newer", "folder"))
    damaged.write_bytes(b"no database at all, but longer than a header" * 10)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA application_id = {0x53464243}")
        connection.execute("PRAGMA user_version = 999")
        connection.execute("CREATE TABLE state (a)")
    connection.close()
    folder.mkdir()
    for path, said in (
        (damaged, "damaged"),
        (foreign, "another program's"),
        (newer, "has format 999"),
        (folder, "can't be read"),
    ):
        found = check_file(path)
        assert found.reach is Reach.FAILING, path
        assert said in found.detail
        assert found.suggestion
