"""Where a Redis is, read from its URL. Nothing here loads redis-py, so that a URL can be checked early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from smartfallback.model.secrets import Secret

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_FORMS: Final = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"

_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
_OPTIONS: Final = _TLS_OPTIONS | {"db", "sentinel_username", "sentinel_password"}
_CERT_REQS: Final = frozenset({"none", "optional", "required"})
_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

Server: TypeAlias = tuple[str, int]
"""Host and port; of a Unix socket its path, and 0."""


class Kind(StrEnum):
    """What answers at an address."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis, and how to get in.

    Attributes:
        kind: What answers there.
        servers: The server, or the sentinels or cluster nodes to ask first.
        place: All of it in one line without credentials, for people.
        service: The name that sentinels know the master by.
        database: The number of the database.
        username: Who to log in as; None for the default user.
        password: The password; None for none.
        sentinel_username: The same for the sentinels.
        sentinel_password: The same for the sentinels.
        tls: How to use TLS, as redis-py's connection takes it; None for plain TCP.
    """

    kind: Kind
    servers: tuple[Server, ...]
    place: str
    service: str = ""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: Secret | None = None
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: Secret | None = None
    tls: Mapping[str, str | bool] | None = None

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must never be shown."""
        return tuple(secret for secret in (self.password, self.sentinel_password) if secret is not None)


def parse(url: Secret | str) -> Address:
    """Read a URL.

    ====================================================== ==========================================
    ``redis://[[user]:password@]host[:port][/db]``          one server; ``rediss://`` with TLS
    ``unix://[[user]:password@]/path[?db=N]``               one server on a Unix socket
    ``redis+sentinel://[…@]host[:port],…/service[/db]``     the master that these sentinels name
    ``redis+cluster://[…@]host[:port],…``                   the cluster that these nodes belong to
    ====================================================== ==========================================

    The password is that of the servers. Sentinels that ask for one take ``?sentinel_password=…``.
    With TLS, ``?ssl_ca_certs=``, ``ssl_certfile=`` and ``ssl_keyfile=`` name files;
    ``ssl_cert_reqs=none`` accepts any certificate and ``ssl_check_hostname=false`` any name.

    Raises:
        ValueError: It is none of these. The message repeats nothing of the URL: any part of it may
            turn out to be a password with a character that had to be written as ``%XX``.
    """
    text = url.reveal() if isinstance(url, Secret) else url
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(f"this is no URL; it begins with {_FORMS}") from None
    scheme, _, kind_name = parts.scheme.partition("+")
    known = {"redis": ("", "sentinel", "cluster"), "rediss": ("", "sentinel", "cluster"), "unix": ("",)}
    if kind_name not in known.get(scheme, ()):
        raise ValueError(f"a Redis URL begins with {_FORMS}")
    if parts.fragment:
        raise ValueError("a # in the URL; inside a password it is written as %23")
    kind = Kind(kind_name or "single")
    options = _options(parts.query, tls=scheme == "rediss", sentinel=kind is Kind.SENTINEL)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")

    path = unquote(parts.path)
    if scheme == "unix":
        if not path.strip("/") or hosts:
            raise ValueError("unix:// is followed by the absolute path of the socket")
        servers: tuple[Server, ...] = ((path, 0),)
        service, number = "", options.get("db", "")
    else:
        port = _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT
        servers = tuple(_server(host, port) for host in hosts.split(","))
        service, number = _service_and_number(kind, path, options.get("db", ""))
    if kind is not Kind.SENTINEL and len(servers) > 1 and kind is not Kind.CLUSTER:
        raise ValueError("several hosts: use redis+sentinel:// or redis+cluster://")
    database = _number(number)
    if kind is Kind.CLUSTER and database:
        raise ValueError("a cluster has the database 0 only")
    return Address(
        kind=kind,
        servers=servers,
        place=_place(parts.scheme, servers, service, database),
        service=service,
        database=database,
        username=unquote(username) or None,
        password=_secret(unquote(password)),
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=_secret(options.get("sentinel_password", "")),
        tls=_tls(options) if scheme == "rediss" else None,
    )


def _options(query: str, *, tls: bool, sentinel: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= _OPTIONS:
        raise ValueError(
            "an unknown option after the ?; known are " + ", ".join(sorted(_OPTIONS)) + " (time limits are "
            "the product's own; a ? inside a password is written as %3F)"
        )
    if not tls and options.keys() & _TLS_OPTIONS:
        raise ValueError("options for TLS need rediss://")
    if not sentinel and options.keys() & {"sentinel_username", "sentinel_password"}:
        raise ValueError("a login for sentinels needs redis+sentinel://")
    return options


def _service_and_number(kind: Kind, path: str, number: str) -> tuple[str, str]:
    names = path.strip("/").split("/") if path.strip("/") else []
    service = ""
    if kind is Kind.SENTINEL:
        if not names:
            raise ValueError("the name of the service is missing: redis+sentinel://host:26379/SERVICE")
        service = names.pop(0)
    if len(names) > 1 or (names and number):
        raise ValueError("too much after the host; a / inside a password is written as %2F")
    return service, names[0] if names else number


def _number(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the database is not a number; a / inside a password is written as %2F")
    return int(text)


def _server(text: str, default_port: int) -> Server:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    host, bracket, rest = text.removeprefix("[").partition("]") if text.startswith("[") else ("", "", "")
    if not bracket:
        host, colon, port = text.partition(":")
    else:
        colon, port = rest[:1], rest[1:]
    if not host and not text:
        host = "localhost"
    if not host or (colon and not port) or colon not in ("", ":"):
        raise ValueError("a host is missing, or not written as host:port")
    if not port:
        return unquote(host), default_port
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ValueError("a port is not a number from 1 to 65535; a @ inside a password is written as %40")
    return unquote(host), int(port)


def _tls(options: Mapping[str, str]) -> dict[str, str | bool]:
    chosen: dict[str, str | bool] = {
        name: value for name, value in options.items() if name in _TLS_OPTIONS - {"ssl_check_hostname"}
    }
    if options.get("ssl_cert_reqs", "required") not in _CERT_REQS:
        raise ValueError("ssl_cert_reqs is one of " + ", ".join(sorted(_CERT_REQS)))
    check = options.get("ssl_check_hostname", "true").lower()
    if check not in _TRUTH:
        raise ValueError("ssl_check_hostname is true or false")
    chosen["ssl_check_hostname"] = _TRUTH[check]
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in chosen and not Path(str(chosen[name])).is_file():
            raise ValueError(f"the file of {name} is not there")
    return chosen


def _secret(text: str) -> Secret | None:
    return Secret(text) if text else None


def _place(scheme: str, servers: tuple[Server, ...], service: str, database: int) -> str:
    if scheme == "unix":
        return f"unix://{servers[0][0]}" + (f"?db={database}" if database else "")
    hosts = ",".join(spelled(server) for server in servers)
    return f"{scheme}://{hosts}" + (f"/{service}" if service else "") + (f"/{database}" if database else "")


def spelled(server: Server) -> str:
    """A server in words: ``host:port``, or the path of its socket."""
    host, port = server
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
