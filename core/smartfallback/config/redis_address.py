"""Whether a text is the address of a Redis server, in words for the operator and without its password."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from smartfallback.config.mistakes import nearest
from smartfallback.state.redis_store.address import parse

if TYPE_CHECKING:
    from smartfallback.model.secrets import Secret

ALLOWED: Final = (
    '"redis://host:6379/0", "rediss://…" (TLS), "unix:///path", '
    '"redis+sentinel://host:26379,host:26379/service" or "redis+cluster://host:7000,host:7001"'
)
_SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_LONGEST_SCHEME: Final = 40


@dataclass(frozen=True, slots=True)
class Refused:
    """What is wrong with an address, and what to do about it; never any part that may be secret."""

    problem: str
    suggestion: str = ""

    def __str__(self) -> str:
        return "; ".join(part for part in (self.problem, self.suggestion) if part)


def refused(url: str) -> Refused | None:
    """What is wrong with an address, None when nothing is."""
    scheme, divided, _ = url.partition("://")
    if not divided:
        return Refused("is not the address of a Redis server", "begin it with redis://")
    if scheme not in _SCHEMES:
        near = nearest(scheme, _SCHEMES) if len(scheme) <= _LONGEST_SCHEME else ""
        return Refused("does not begin as the address of a Redis server does", near)
    if any(char.isspace() or not char.isprintable() for char in url):
        return Refused("holds blanks or control characters", "inside a password a blank is written as %20")
    try:
        parse(url)
    except ValueError as error:
        problem, _, suggestion = str(error).partition("; ")
        return Refused(problem, suggestion)
    return None


def secrets_in(url: str) -> tuple[Secret, ...]:
    """The passwords in a usable address."""
    return parse(url).secrets


def sends_in_clear(url: str) -> bool:
    """Whether a password in a usable address would go over a network unencrypted."""
    address = parse(url)
    if address.tls is not None or not address.secrets:
        return False
    return not all(_stays_here(host, port) for host, port in address.servers)


def _stays_here(host: str, port: int) -> bool:
    if not port or host.lower() == "localhost":  # a socket has no port
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
