"""What all HTTP upstreams' errors have in common: status, stated waits, clean words, lost connections."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import httpx

from smartfallback.model.outcomes import ErrorCategory, Failure, TimeoutPhase
from smartfallback.model.secrets import Secret, redact
from smartfallback.model.specs import AccountSpec
from smartfallback.providers.retry_after import header_wait, rate_limit_wait

MAX_MESSAGE: Final = 300
MAX_CODE: Final = 64
_CONTROL: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# aiohttp chains a cut body to the parser's complaint and names the lost connection in the text only.
_RESET: Final = re.compile(r"Connection(?:Reset|Aborted)Error|BrokenPipeError")
_TITLE: Final = re.compile(r"<title[^>]*>([^<]{1,200})", re.IGNORECASE)

_TRANSIENT: Final = frozenset({408, 425, 502, 503, 504, 529})
_INVALID: Final = frozenset({400, 404, 413, 422})


def category_of_status(status: int) -> ErrorCategory:
    """The category of an HTTP status as far as the status alone tells."""
    if status in _TRANSIENT:
        return ErrorCategory.TRANSIENT_ERROR
    if status in _INVALID:
        return ErrorCategory.INVALID_REQUEST
    if status in (401, 403):
        return ErrorCategory.AUTHENTICATION
    if status == 402:
        return ErrorCategory.QUOTA_EXHAUSTED
    if status == 429:
        return ErrorCategory.RATE_LIMIT
    if 500 <= status <= 599:
        return ErrorCategory.API_FAILURE
    return ErrorCategory.UNKNOWN


def clean(text: str, secrets: tuple[Secret, ...] = (), limit: int = MAX_MESSAGE) -> str:
    """``text`` without secrets, on one line, at most ``limit`` characters.

    Secrets go first: a cut through the middle of one would leave a piece that no longer looks like it.
    """
    text = _CONTROL.sub(" ", redact(text, secrets)).strip()
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An upstream's refusal, as it came.

    Attributes:
        status: The HTTP status, or the one that an error inside a 200 stream names; 200 if it names none.
        headers: Response headers, looked up by lower-case names.
        payload: The decoded JSON body, None when it was not JSON.
        text: The body as text, for when it was not JSON.
        account: Whose call was refused.
        model: The model that was asked.
        now: The calendar's time in epoch seconds.
    """

    status: int
    # An upstream may quote the key that it was sent.
    headers: Mapping[str, str] = field(repr=False)
    payload: Any = field(repr=False)
    text: str = field(repr=False)
    account: AccountSpec
    model: str
    now: float

    @classmethod
    def from_body(
        cls,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        account: AccountSpec,
        model: str,
        now: float,
    ) -> ErrorReply:
        """The refusal in an HTTP response whose body may have been cut."""
        payload: Any = None
        with suppress(ValueError, RecursionError):
            payload = json.loads(body)
        return cls(status, headers, payload, body.decode("utf-8", "replace"), account, model, now)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must not show up in anything made from this reply."""
        return (self.account.api_key,) if self.account.api_key is not None else ()

    def clean(self, text: str, limit: int = MAX_MESSAGE) -> str:
        """:func:`clean` without the account's key."""
        return clean(text, self.secrets, limit)

    def stated_wait(self) -> float | None:
        """Seconds by ``Retry-After``, or on a 429 by the rate-limit headers; None when unstated."""
        wait = header_wait(self.headers, self.now)
        if wait is None and self.status == 429:
            wait = rate_limit_wait(self.headers, self.now)
        return wait

    def failure(self, message: str, code: str = "") -> Failure:
        """The failure that the status alone makes, with the upstream's words."""
        category = category_of_status(self.status)
        words = self.clean(message) or self._words_without_json()
        return Failure(
            category,
            words,
            http_status=self.status,
            code=self.clean(code, MAX_CODE),
            retry_after_s=self.stated_wait(),
            hint=self._hint(category),
        )

    def as_category(self, failure: Failure, category: ErrorCategory, **changes: Any) -> Failure:
        """``failure`` moved to ``category``, with that category's hint unless ``changes`` has one."""
        changes.setdefault("hint", hint_for(category, self.account))
        return replace(failure, category=category, **changes)

    def _hint(self, category: ErrorCategory) -> str:
        if self.status == 404:
            return clean(f"check the model name {self.model!r} and the base_url of account {self.account.id}")
        if 300 <= self.status < 400:
            target = self.clean(self.headers.get("location", "elsewhere"), 120)
            return f"redirects are not followed, the key would go along: set base_url to where {target} leads"
        return hint_for(category, self.account)

    def _words_without_json(self) -> str:
        title = _TITLE.search(self.text)
        if title:
            return self.clean(f"{title.group(1)} (an HTML page)")
        words = self.clean(self.text)
        if words and self.payload is None and not words.startswith("<"):
            return words
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return f"status {self.status} without a message"


def hint_for(category: ErrorCategory, account: AccountSpec) -> str:
    """What an operator can do about an error of ``category``; empty when it mends itself."""
    if category is ErrorCategory.AUTHENTICATION:
        if account.api_key is None:
            return clean(f"account {account.id} has no key: set its api_key")
        return clean(f"check the key of account {account.id}")
    if category is ErrorCategory.QUOTA_EXHAUSTED:
        return clean(
            f"account {account.id} is out of quota: wait for its reset or raise its limit with the provider"
        )
    return ""


def malformed(message: str, account: AccountSpec, status: int = 200) -> Failure:
    """An answer that can't be read."""
    secrets = (account.api_key,) if account.api_key is not None else ()
    return Failure(ErrorCategory.MALFORMED_RESPONSE, clean(message, secrets), http_status=status)


def connection_failure(error: Exception, host: str, *, began: bool) -> Failure:
    """The failure behind an exception of the HTTP client.

    Args:
        error: What httpx or aiohttp raised.
        host: Host and port of the upstream, for the message.
        began: Whether the response's headers had come.

    The cause is read in preference to ``error``: httpx-aiohttp 0.2 reports refused and dropped
    connections as connect time-outs.
    """
    root = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ is not None else error
    if isinstance(error, httpx.DecodingError):
        return Failure(
            ErrorCategory.MALFORMED_RESPONSE, clean(f"{host} sent a body that can't be decompressed")
        )
    match root:
        case aiohttp.ConnectionTimeoutError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return Failure(
                ErrorCategory.TIMEOUT, clean(f"no connection to {host} in time"), phase=TimeoutPhase.CONNECT
            )
        case aiohttp.ServerTimeoutError() | httpx.TimeoutException() | TimeoutError():
            phase = TimeoutPhase.IDLE if began else TimeoutPhase.FIRST_TOKEN
            return Failure(ErrorCategory.TIMEOUT, clean(f"{host} went silent"), phase=phase)
        case aiohttp.ClientPayloadError() if _RESET.search(str(root)):
            return _network(f"{host} reset the connection in mid-answer", "")
        case aiohttp.ClientPayloadError():
            return Failure(
                ErrorCategory.MALFORMED_RESPONSE, clean(f"{host} cut the answer off"), http_status=200
            )
        case aiohttp.ClientConnectorDNSError():
            return _network(f"can't resolve the host of {host}", "check base_url and the network's DNS")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return _network(
                f"TLS with {host} failed: {_tls_words(root)}", "check base_url and the certificates"
            )
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return _network(
                f"the proxy on the way to {host} failed", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
            )
        case aiohttp.ClientConnectorError():
            words = (root.os_error.strerror or type(root.os_error).__name__).lower()
            if isinstance(root.os_error, ConnectionRefusedError):
                words = "connection refused"
            return _network(f"no connection to {host}: {words}", "check base_url, and that the server runs")
        case aiohttp.ServerDisconnectedError():
            where = "in mid-answer" if began else "without an answer"
            return _network(f"{host} closed the connection {where}", "")
        case aiohttp.ClientResponseError():
            return Failure(
                ErrorCategory.MALFORMED_RESPONSE, clean(f"{host} does not speak HTTP as it should")
            )
        case aiohttp.ClientConnectionError() | OSError() | httpx.NetworkError():
            return _network(f"the connection to {host} broke", "")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | httpx.UnsupportedProtocol():
            return _network(f"{host} is no address that can be called", "check base_url")
        case _:
            return Failure(ErrorCategory.UNKNOWN, clean(f"{type(root).__name__} while calling {host}"))


def _network(message: str, hint: str) -> Failure:
    return Failure(ErrorCategory.NETWORK_ERROR, clean(message), hint=hint)


def _tls_words(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    reason = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
    return str(reason or "handshake refused").replace("_", " ").lower()
