"""Lost connections, in the exceptions by which the real transport reports them.

httpx-aiohttp raises httpx's exception from aiohttp's, and adapters read the cause. The texts name host and
port at most.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import NamedTuple, cast

import aiohttp
import httpx
from aiohttp.client_reqrep import ConnectionKey

from smartfallback.simulation.faults import (
    ConnectTimeout,
    DnsFailure,
    PlainFault,
    Refused,
    ResetConnection,
    TlsFailure,
)


class _Key(NamedTuple):
    """As much of aiohttp's key of a connection as its exceptions look at; the whole differs by release."""

    host: str
    port: int | None
    is_ssl: bool
    ssl: bool


def lost_connection(fault: PlainFault, url: httpx.URL) -> httpx.TransportError | None:
    """What a call to ``url`` raises under ``fault``; None if connections are not its matter."""
    key = cast("ConnectionKey", _Key(url.host, url.port, url.scheme == "https", ssl=True))
    cause: Exception
    error: httpx.TransportError
    match fault:
        case Refused():
            cause = aiohttp.ClientConnectorError(
                key, OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            )
            error = httpx.ConnectError(str(cause))
        case DnsFailure():
            unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            cause = aiohttp.ClientConnectorDNSError(key, unknown)
            error = httpx.ConnectError(str(cause))
        case TlsFailure():
            untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
            untrusted.verify_message = "self-signed certificate"
            cause = aiohttp.ClientConnectorCertificateError(key, untrusted)
            error = httpx.ConnectError(str(cause))
        case ConnectTimeout():
            cause = aiohttp.ConnectionTimeoutError(f"Connection timeout to host {url.host}")
            error = httpx.TimeoutException(str(cause))
        case ResetConnection():
            cause = aiohttp.ClientOSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            error = httpx.ConnectTimeout(str(cause))
        case _:
            return None
    error.__cause__ = cause
    return error


def cut_body() -> httpx.ReadError:
    """What reading a body raises whose connection closes before its end."""
    cause = aiohttp.ClientPayloadError("Response payload is not completed")
    error = httpx.ReadError(str(cause))
    error.__cause__ = cause
    return error
