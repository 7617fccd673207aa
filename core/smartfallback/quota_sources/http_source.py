"""A quota over HTTP: one GET, a JSON body, and a name for each way in which that can fail."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from smartfallback.model.outcomes import ErrorCategory, ProviderError
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec
from smartfallback.providers.call_headers import header_value
from smartfallback.providers.http_client import Exchange, HttpClient
from smartfallback.providers.http_errors import clean
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError

MAX_BODY_BYTES: Final = 256 * 1024
_MISSING: Final = (404, 405, 410, 501)
_UNAUTHORIZED: Final = (401, 403)
_BAD_KEY: Final = re.compile(rb"API_KEY_INVALID|API key (?:not valid|expired)", re.IGNORECASE)
_ERROR_BYTES: Final = 8 * 1024
_ERROR_S: Final = 1.0


async def get_json(
    client: HttpClient, url: str, headers: Mapping[str, str | Secret], account: AccountSpec
) -> Any:
    """The JSON document at ``url``. The caller limits the time.

    Raises:
        QuotaSourceError: No connection, an error status, or a body that is no JSON.
    """
    secrets = (account.api_key,) if account.api_key is not None else ()
    try:
        exchange = await client.get(client.endpoint(url, headers))
        try:
            await _check_status(exchange)
            body = await _body(exchange)
        finally:
            await exchange.aclose()
    except ProviderError as error:
        timed_out = error.failure.category is ErrorCategory.TIMEOUT
        kind = QuotaFault.TIMEOUT if timed_out else QuotaFault.UNAVAILABLE
        raise QuotaSourceError(clean(error.failure.message, secrets), kind) from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    start = clean(body[:60].decode("utf-8", "replace"), secrets)
    raise QuotaSourceError(f"the answer is no JSON: {start!r}", QuotaFault.MALFORMED)


def address(setting: str | None, base: str, path: str) -> str:
    """Where to ask: ``setting`` as a URL or as a path on ``base``, else ``path`` on ``base``.

    A URL without a path of its own stands for another base.
    """
    if setting is None:
        return base.rstrip("/") + path
    if setting.startswith("/"):
        return base.rstrip("/") + setting
    return setting if urlsplit(setting).path.strip("/") else setting.rstrip("/") + path


def key_of(account: AccountSpec, scheme: str = "") -> Secret | None:
    """The account's key as a header value, after ``scheme``; None without one.

    Raises:
        QuotaSourceError: It holds characters that no header can carry.
    """
    if account.api_key is None:
        return None
    key = header_value(account.api_key, scheme)
    if key is None:
        raise QuotaSourceError("the account's key can't be sent", QuotaFault.UNAUTHORIZED)
    return key


async def _check_status(exchange: Exchange) -> None:
    status = exchange.status
    if status == 200:
        return
    if status in _MISSING:
        raise QuotaSourceError(f"no such endpoint (status {status})", QuotaFault.MISSING)
    # Google refuses a wrong key with 400.
    if status in _UNAUTHORIZED or (
        status == 400 and _BAD_KEY.search(await exchange.read_start(_ERROR_BYTES, _ERROR_S))
    ):
        raise QuotaSourceError(f"the credentials are refused (status {status})", QuotaFault.UNAUTHORIZED)
    raise QuotaSourceError(f"status {status}", QuotaFault.UNAVAILABLE)


async def _body(exchange: Exchange) -> bytes:
    body = bytearray()
    while (piece := await exchange.read()) is not None:
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise QuotaSourceError("the answer is too long for a quota", QuotaFault.MALFORMED)
    return bytes(body)
