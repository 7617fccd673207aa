"""A certificate that nobody vouches for, made on the spot: P-256 and X.509 (RFC 5280, RFC 5915, SEC 1)."""

from __future__ import annotations

import base64
import hashlib
import secrets
import ssl
from pathlib import Path

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

_Point = tuple[int, int] | None


def self_signed(folder: Path) -> ssl.SSLContext:
    """What a server on 127.0.0.1 needs for TLS with a certificate that it signed itself."""
    key = secrets.randbelow(_N - 1) + 1
    place = folder / "server.pem"
    place.write_text(_pem("EC PRIVATE KEY", _private(key)) + _pem("CERTIFICATE", _certificate(key)))
    place.chmod(0o600)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place)
    return context


def _add(one: _Point, other: _Point) -> _Point:
    if one is None or other is None:
        return one or other
    if one[0] == other[0] and (one[1] + other[1]) % _P == 0:
        return None
    if one == other:
        slope = 3 * (one[0] ** 2 - 1) * pow(2 * one[1], -1, _P)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, _P)
    x = (slope**2 - one[0] - other[0]) % _P
    return x, (slope * (one[0] - x) - one[1]) % _P


def _times(factor: int) -> tuple[int, int]:
    total: _Point = None
    power: _Point = _G
    while factor:
        if factor & 1:
            total = _add(total, power)
        power = _add(power, power)
        factor >>= 1
    assert total is not None
    return total


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 128:
        return bytes((tag, size)) + body
    width = (size.bit_length() + 7) // 8
    return bytes((tag, 128 + width)) + size.to_bytes(width, "big") + body


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(*arcs: int) -> bytes:
    body = [arcs[0] * 40 + arcs[1]]
    for arc in arcs[2:]:
        low = [arc & 127]
        while arc := arc >> 7:
            low.append(arc & 127 | 128)
        body += reversed(low)
    return _der(0x06, bytes(body))


_CURVE = _oid(1, 2, 840, 10045, 3, 1, 7)
_ECDSA_SHA256 = _sequence(_oid(1, 2, 840, 10045, 4, 3, 2))


def _public(key: int) -> bytes:
    x, y = _times(key)
    return _der(0x03, b"\0\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big"))


def _private(key: int) -> bytes:
    secret = _der(0x04, key.to_bytes(32, "big"))
    return _sequence(_integer(1), secret, _der(0xA0, _CURVE), _der(0xA1, _public(key)))


def _certificate(key: int) -> bytes:
    name = _sequence(_der(0x31, _sequence(_oid(2, 5, 4, 3), _der(0x0C, b"127.0.0.1"))))
    valid = _sequence(_der(0x17, b"200101000000Z"), _der(0x17, b"491231235959Z"))
    public = _sequence(_sequence(_oid(1, 2, 840, 10045, 2, 1), _CURVE), _public(key))
    address = _der(0x04, _sequence(_der(0x87, bytes((127, 0, 0, 1)))))
    extensions = _der(0xA3, _sequence(_sequence(_oid(2, 5, 29, 17), address)))
    told = _sequence(
        _der(0xA0, _integer(2)), _integer(1), _ECDSA_SHA256, name, valid, name, public, extensions
    )
    return _sequence(told, _ECDSA_SHA256, _der(0x03, b"\0" + _signature(key, told)))


def _signature(key: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    once = secrets.randbelow(_N - 1) + 1
    r = _times(once)[0] % _N
    return _sequence(_integer(r), _integer(pow(once, -1, _N) * (digest + r * key) % _N))


def _pem(label: str, der: bytes) -> str:
    body = base64.encodebytes(der).decode().replace("\n", "")
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
