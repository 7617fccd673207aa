"""Everything that can be wrong with a server: found, named, survived, and no password told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import threading

import pytest
from redis.exceptions import ResponseError

from smartfallback.clock import SystemClock
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, REQUEST_LIMIT_S, RedisLink
from smartfallback.state.redis_store.scripts import Script
from smartfallback.state.redis_store.trouble import describe
from smartfallback.state.shared import StoreLostError
from support.certificates import self_signed
from support.http_servers import always, http_server
from support.redis_links import link_to
from support.redis_proxy import TcpProxy
from support.redis_servers import RedisServer, free_port
from support.waiting import until

WRITE = Script.of("write", "return redis.call('SET', KEYS[1], ARGV[1])")
PASSWORD = "geheim-und-lang"


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(server):
    with TcpProxy(server.address) as proxy:
        yield proxy


async def write(link: RedisLink, limit_s: float = REQUEST_LIMIT_S) -> object:
    return await link.run(WRITE, ["key"], ["x"], limit_s=limit_s)


async def in_time(link: RedisLink) -> object:
    """What a request gets, on a machine that may be too busy for one within the budget now and then."""
    async with asyncio.timeout(15):
        while True:
            await until(lambda: link.status.usable)
            with contextlib.suppress(StoreLostError):
                return await write(link)


async def refused_by(url: str) -> str:
    """What the link says of a server that it can't use."""
    async with link_to(url) as link:
        await until(lambda: link.status.degraded_since is not None)
        assert (link.status.usable, link.status.reachable) == (False, False)
        for limit_s in (REQUEST_LIMIT_S, BACKGROUND_LIMIT_S):
            with pytest.raises(StoreLostError) as refused:
                await write(link, limit_s)
            assert str(refused.value) == link.status.trouble
        return link.status.trouble


# -- servers that can't be used from the start


async def test_nobody_listens():
    assert await refused_by(f"redis://127.0.0.1:{free_port()}") == "connection refused"


async def test_there_is_no_such_socket(tmp_path):
    assert await refused_by(f"unix://{tmp_path}/none.sock") == "its socket is not there"


async def test_the_name_is_unknown(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert await refused_by("redis://redis.invalid") == "its name can't be resolved"


async def test_a_lookup_that_hangs_holds_one_thread_however_often_it_is_tried(monkeypatch):
    asked, go_on = [], threading.Event()

    def hanging(host, *args, **kwargs):
        asked.append(host)
        go_on.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    try:
        async with link_to("redis://redis.invalid") as link:
            await until(lambda: "no answer" in link.status.trouble)
            link._keeper._woken.set()
            await link._keeper._check()
            assert "no answer" in link.status.trouble
            assert asked == ["redis.invalid"]
    finally:
        go_on.set()


async def test_the_password_is_missing_or_wrong():
    with RedisServer(password=PASSWORD) as server:
        where = f"127.0.0.1:{server.port}"
        assert await refused_by(f"redis://{where}") == "it asks for a password"
        wrong = await refused_by(f"redis://:wrong@{where}")
        assert wrong == await refused_by(f"redis://user:{PASSWORD}@{where}")
        assert wrong == "it refuses the user name or the password"


async def test_a_user_who_may_not_write_is_found_out(server):
    server.command(
        "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection", "+evalsha", "+eval"
    )
    trouble = await refused_by(f"redis://reader:pw@127.0.0.1:{server.port}")
    assert trouble == "its user may not do what is needed"


async def test_another_protocol_answers():
    async with http_server(always(400, {})) as web:
        where = web.url.removeprefix("http://").split("/")[0]
        trouble = await refused_by(f"redis://{where}")
    assert trouble == "what answers there is no Redis server"


async def test_it_is_a_replica(server):
    with RedisServer(replica_of=server) as replica:
        assert await refused_by(replica.url) == "it is a replica and can't be written to"


async def test_a_black_hole_from_the_start(proxy):
    proxy.swallow()
    assert await refused_by(proxy.url) == "no answer within 1 s"


async def test_it_takes_no_more_connections():
    with RedisServer(options=[("maxclients", "1")]) as server:
        server.command("PING")
        # The server says so and resets at once: which of the two is heard first is chance.
        assert await refused_by(server.url) in ("it takes no more connections", "the connection was reset")


async def test_it_is_loading_its_data_and_ready_later():
    with RedisServer() as server:
        # While it loads it answers after every 2 MiB.
        server.command("CONFIG", "SET", "rdbcompression", "no")
        server.command("DEBUG", "POPULATE", 2000, "key", 10_000)
        server.stop(save=True)
        server.configure("key-load-delay", "1000")
        server.start(loaded=False)
        async with link_to(server) as link:
            assert link.status.trouble == "it is loading its data"
            await until(lambda: link.status.usable)
            assert await in_time(link) == "OK"


# -- servers that go bad in use


async def test_a_full_server_is_lost_until_it_has_room(server):
    async with link_to(server) as link:
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreLostError, match="its memory is full"):
            await write(link)
        assert (link.status.reachable, link.status.trouble) == (False, "its memory is full")
        server.command("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: link.status.usable)
        assert await in_time(link) == "OK"


async def test_a_master_that_becomes_a_replica_is_lost(server):
    async with link_to(server) as link:
        server.command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(StoreLostError, match="replica"):
            await write(link)
        assert not link.status.reachable
        server.promote()
        await until(lambda: link.status.usable)


async def test_a_server_that_cannot_save_is_lost():
    with RedisServer() as server:
        async with link_to(server) as link:
            server.command("CONFIG", "SET", "save", "3600 1")
            shutil.rmtree(server.folder)
            server.command("SET", "x", "1")
            server.command("BGSAVE")
            await until(lambda: server.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
            await until(lambda: not link.status.reachable)
            assert link.status.trouble == "it can't save to its disk and refuses to write"


async def test_a_slow_server_is_reached_in_the_background_only(proxy):
    async with link_to(proxy.url) as link:
        assert await in_time(link) == "OK"
        proxy.delay_s = 0.2
        with pytest.raises(StoreLostError, match="no answer within 50 ms"):
            await write(link)
        await until(lambda: "took" in link.status.trouble)
        assert (link.status.usable, link.status.reachable) == (False, True)
        assert link.status.lag_s is not None
        assert link.status.lag_s >= 0.2
        assert await write(link, 10.0) == "OK"
        proxy.delay_s = 0.0
        await until(lambda: link.status.usable)
        assert await in_time(link) == "OK"


async def test_a_server_that_is_slow_from_the_start_is_reached_too(proxy):
    proxy.delay_s = 0.1
    async with link_to(proxy.url) as link:
        await link.wait_reachable()
        assert not link.status.usable
        assert await write(link, 10.0) == "OK"


async def test_cut_connections_are_made_again(proxy, server):
    async with link_to(proxy.url) as link:
        for _ in range(3):
            proxy.cut()
            await until(lambda: not link.status.reachable)
            await until(lambda: link.status.usable)
            assert await in_time(link) == "OK"
        await until(lambda: server.clients() == 2)


async def test_a_closed_port_is_tried_until_it_opens(proxy):
    async with link_to(proxy.url) as link:
        proxy.refuse()
        await until(lambda: link.status.trouble == "connection refused")
        tried = proxy.accepted
        proxy.accept()
        await until(lambda: link.status.usable)
        assert proxy.accepted == tried + 2


async def test_a_black_hole_costs_no_more_than_two_connections_a_try(proxy, server):
    async with link_to(proxy.url) as link:
        proxy.swallow()
        await until(lambda: not link.status.reachable)
        before = proxy.accepted
        await until(lambda: proxy.accepted > before)
        assert proxy.accepted <= before + 2
        proxy.pass_on()
        await until(lambda: link.status.usable)
        assert await in_time(link) == "OK"
        await until(lambda: server.clients() == 2)


# -- TLS


async def test_tls_is_spoken_and_certificates_are_checked(server, tmp_path):
    with TcpProxy(server.address, tls=self_signed(tmp_path)) as proxy:
        where = f"rediss://127.0.0.1:{proxy.port}"
        assert (await refused_by(where)).startswith("its certificate is not accepted")
        assert await refused_by(f"redis://127.0.0.1:{proxy.port}") != ""
        for options in (
            "ssl_cert_reqs=none",
            f"ssl_ca_certs={tmp_path / 'server.pem'}&ssl_check_hostname=no",
        ):
            async with link_to(f"{where}?{options}") as link:
                assert await in_time(link) == "OK"
    # A Redis without TLS waits for the rest of what it takes for a command.
    assert await refused_by(f"rediss://127.0.0.1:{server.port}") == "no answer within 1 s"


# -- words


async def test_no_trouble_tells_the_password(caplog):
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def hear(link: RedisLink) -> None:
        said.extend((repr(link), link.place, repr(link.status), repr(link.__dict__["_address"])))

    with RedisServer(password=PASSWORD) as server, TcpProxy(server.address) as proxy:
        async with link_to(f"redis://default:{PASSWORD}@127.0.0.1:{proxy.port}") as link:
            assert await in_time(link) == "OK"
            hear(link)
            for ruin, repair in (
                (proxy.refuse, proxy.accept),
                (proxy.cut, lambda: None),
                (
                    lambda: server.command("CONFIG", "SET", "requirepass", "another"),
                    lambda: server.command("CONFIG", "SET", "requirepass", PASSWORD),
                ),
            ):
                ruin()
                proxy.cut()
                await until(lambda: not link.status.reachable)
                hear(link)
                with pytest.raises(StoreLostError) as refused:
                    await write(link)
                said.append(repr(refused.value) + repr(refused.value.__cause__))
                repair()
                await until(lambda: link.status.usable)
            with pytest.raises(StoreLostError) as refused:
                await link.command("GET", PASSWORD, PASSWORD, limit_s=1)
            said.append(str(refused.value))
    said += [record.getMessage() for record in caplog.records]
    assert len(said) > 10
    assert not [words for words in said if PASSWORD in words]


@pytest.mark.parametrize(
    ("text", "words", "everywhere"),
    [
        (
            "ERR Error running script (call to f_1): @user_script: 1: The user executing the script can't "
            "run this command or subcommand",
            "may not do",
            False,
        ),
        ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", "memory", True),
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:1.",
            "memory",
            True,
        ),
        ("ERR Error running script (call to f_1): @user_script: 4: -READONLY You can't", "replica", True),
        ("NOREPLICAS Not enough good replicas to write.", "too few replicas", True),
        ("MISCONF Redis is configured to save RDB snapshots", "can't save", True),
        ("BUSY Redis is busy running a script.", "keeps it busy", True),
        ("CLUSTERDOWN Hash slot not served", "cluster is down", True),
        ("MASTERDOWN Link with MASTER is down", "lost its master", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "moves the data", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "it refused: WRONGTYPE", False),
        ("ERR unknown command 'x'\r\n[31m" + "y" * 1000, "it refused: ERR unknown command", False),
    ],
)
def test_errors_are_told_apart(text, words, everywhere):
    trouble = describe(ResponseError(text))
    assert words in trouble.words
    assert trouble.everywhere is everywhere
    assert len(trouble.words) < 250
    assert "\n" not in trouble.words


async def test_tries_of_many_instances_are_bounded_and_spread(server):
    """A server that comes back is not met by all at one moment."""
    links = [RedisLink(server.url, SystemClock()) for _ in range(5)]
    await asyncio.gather(*(link.start() for link in links))
    server.kill()
    await until(lambda: not any(link.status.reachable for link in links))
    server.start()
    await until(lambda: all(link.status.usable for link in links))
    assert server.clients() == 2 * len(links)
    await asyncio.gather(*(link.aclose() for link in links))
