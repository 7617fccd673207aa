"""Whether accounts can be reached, found out without spending any quota.

An upstream is asked for its list of models (or its health, for OpenCode) with the account's key, and
Copilot's tool whether somebody is logged in: that costs nothing, and shows a refused key as well as a
dead address.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from smartfallback.clock import SystemClock
from smartfallback.model.secrets import redact
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind, SystemSpec

if TYPE_CHECKING:
    import httpx

    from smartfallback.model.secrets import Secret

LIMIT_S: Final = 5.0
_AT_ONCE: Final = 16
_BODY_READ: Final = 4096
_LONGEST_VERSION: Final = 40
_DEFAULT_ADDRESS: Final = {
    ProviderKind.GEMINI: "https://generativelanguage.googleapis.com",
    ProviderKind.OPENAI: "https://api.openai.com/v1",
    ProviderKind.OPENCODE: "http://127.0.0.1:4096",
}


class Reach(StrEnum):
    """What was found about one account."""

    OK = "ok"
    """It answers, and did not refuse the key."""
    REACHABLE = "reachable"
    """Something answers there, but the key could not be tried."""
    REFUSED = "refused"
    FAILING = "failing"
    UNREACHABLE = "unreachable"
    UNAVAILABLE = "unavailable"
    """The provider can't run on this machine at all."""

    @property
    def usable(self) -> bool:
        """Whether requests may be expected to work."""
        return self in (Reach.OK, Reach.REACHABLE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one account, in words, and what to do about it."""

    account: str
    pool: str
    provider: str
    reach: Reach
    detail: str
    suggestion: str = ""


class _Verdict(NamedTuple):
    reach: Reach
    detail: str
    suggestion: str = ""


async def probe(spec: SystemSpec, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Try every account, several at once, each for at most ``limit_s`` seconds.

    Returns:
        One finding an account, in the order of the configuration.
    """
    import httpx

    gate = asyncio.Semaphore(_AT_ONCE)
    # Redirects are not followed: they would take the key along.
    async with httpx.AsyncClient(timeout=limit_s, follow_redirects=False) as client:

        async def one(pool: PoolSpec, account: AccountSpec, unavailable: str) -> Finding:
            if unavailable:
                # What can't run says what to do about it after a colon.
                why, _, what_to_do = unavailable.partition(": ")
                verdict = _Verdict(Reach.UNAVAILABLE, why, what_to_do)
            else:
                async with gate:
                    verdict = await _try(client, pool, account, limit_s)
            known = [account.api_key] if account.api_key is not None else []
            return Finding(
                account.id,
                pool.name,
                pool.provider.value,
                verdict.reach,
                redact(verdict.detail, known),
                redact(verdict.suggestion, known),
            )

        findings = []
        for pool in spec.pools:
            unavailable = await _unavailable(pool)
            findings += [one(pool, account, unavailable) for account in pool.accounts]
        return await asyncio.gather(*findings)


async def _unavailable(pool: PoolSpec) -> str:
    from smartfallback.providers.registry import build_provider

    provider = build_provider(pool, SystemClock())
    try:
        return provider.unavailable()
    finally:
        await provider.aclose()


async def _try(client: httpx.AsyncClient, pool: PoolSpec, account: AccountSpec, limit_s: float) -> _Verdict:
    match pool.provider:
        case ProviderKind.LOCAL:
            return _Verdict(Reach.OK, "can run on this machine")
        case ProviderKind.COPILOT:
            return await _try_copilot(client, pool, account, limit_s)
        case kind:
            return await _ask(client, kind, account.base_url or pool.base_url, account, limit_s)


async def _try_copilot(
    client: httpx.AsyncClient, pool: PoolSpec, account: AccountSpec, limit_s: float
) -> _Verdict:
    from smartfallback.providers.copilot_errors import INSTALL
    from smartfallback.providers.copilot_tool import ToolLocator, environment, secrets_in
    from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
    from smartfallback.quota_sources.copilot_rpc import ask_tool

    locator = ToolLocator(pool.command, SystemClock())
    tool = locator.find()
    address = account.base_url or pool.base_url
    if tool is None and address:
        # The adapter's way round a missing tool.
        return await _ask(client, ProviderKind.OPENAI, address, account, limit_s)
    if tool is None:
        return _Verdict(
            Reach.UNAVAILABLE,
            f"{locator.program} is not installed, and the account has no base_url to be served at instead",
            f"run {INSTALL}, then copilot and /login",
        )
    env = environment(account, os.environ)
    try:
        async with asyncio.timeout(limit_s):
            await ask_tool(tool, env, secrets_in(env))
    except TimeoutError:
        reason = f"it did not answer within {limit_s:g} s"
    except QuotaSourceError as error:
        if error.kind is QuotaFault.UNAUTHORIZED:
            log_in = "run copilot and /login" if account.api_key is None else _replace_key(account)
            return _Verdict(Reach.REFUSED, f"{tool[0]} runs, but its login does not hold: {error}", log_in)
        reason = str(error)
    else:
        return _Verdict(Reach.OK, f"{tool[0]} runs and is logged in")
    return _Verdict(Reach.REACHABLE, f"{tool[0]} is there; its login was not tried: {reason}")


async def _ask(
    client: httpx.AsyncClient, kind: ProviderKind, address: str | None, account: AccountSpec, limit_s: float
) -> _Verdict:
    import httpx

    base = (address or _DEFAULT_ADDRESS[kind]).rstrip("/")
    host = _host(base)
    check_address = "check base_url, the network and any proxy, or start the server"
    if kind is ProviderKind.OPENCODE:
        check_address = 'start it with "opencode serve", or check base_url'
    try:
        headers = _headers(kind, account)
        if headers is None:
            words = "the key is empty or holds characters that no key has"
            return _Verdict(Reach.REFUSED, words, _replace_key(account))
        async with (
            asyncio.timeout(limit_s),
            client.stream("GET", httpx.URL(_listing(kind, base)), headers=headers) as response,
        ):
            body = bytearray()
            if kind is ProviderKind.OPENCODE or response.status_code == httpx.codes.BAD_REQUEST:
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) >= _BODY_READ:
                        break
    except (TimeoutError, httpx.TimeoutException):
        return _Verdict(Reach.UNREACHABLE, f"no answer from {host} within {limit_s:g} s", check_address)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = str(error) or type(error).__name__
        return _Verdict(Reach.UNREACHABLE, f"no connection to {host}: {reason}", check_address)
    if kind is ProviderKind.OPENCODE:
        return _judge_health(response.status_code, bytes(body), host, account)
    return _judge(response.status_code, bytes(body), host, account)


def _listing(kind: ProviderKind, base: str) -> str:
    if kind is ProviderKind.OPENCODE:
        return f"{base}/global/health"
    if kind is ProviderKind.GEMINI:
        from smartfallback.providers.gemini import with_version

        return f"{with_version(base)}/models?pageSize=1"
    return f"{base}/models"


def _judge(status: int, body: bytes, host: str, account: AccountSpec) -> _Verdict:
    # Gemini says 400 where others say 401.
    if status in (401, 403) or (status == 400 and b"API_KEY_INVALID" in body):
        return _Verdict(Reach.REFUSED, f"{host} refuses the key (HTTP {status})", _replace_key(account))
    if status == 429:
        return _Verdict(Reach.OK, f"{host} answers; the account is rate limited at the moment (HTTP 429)")
    if 200 <= status < 300:
        return _Verdict(Reach.OK, f"{host} answers")
    return _not_working(status, host) or _Verdict(
        Reach.REACHABLE, f"{host} answers, but lists no models (HTTP {status}): the key was not tried"
    )


def _judge_health(status: int, body: bytes, host: str, account: AccountSpec) -> _Verdict:
    if status in (401, 403):
        return _Verdict(
            Reach.REFUSED,
            f"{host} refuses the password (HTTP {status})",
            f"let api_key of {account.id} refer to the server's OPENCODE_SERVER_PASSWORD",
        )
    if (failing := _not_working(status, host)) is not None:
        return failing
    try:
        health = json.loads(body)
    except (ValueError, RecursionError):
        health = None
    if not 200 <= status < 300 or not isinstance(health, dict) or "healthy" not in health:
        return _Verdict(
            Reach.FAILING,
            f"{host} answers, but not as an OpenCode server does (HTTP {status})",
            'set base_url to the address that "opencode serve" names',
        )
    version = str(health.get("version") or "of unknown version")[:_LONGEST_VERSION]
    if health["healthy"] is not True:
        return _Verdict(
            Reach.FAILING, f"OpenCode {version} at {host} is not healthy", "restart it, and see its log"
        )
    return _Verdict(Reach.OK, f"OpenCode {version} at {host} answers")


def _not_working(status: int, host: str) -> _Verdict | None:
    if status >= 500:
        return _Verdict(
            Reach.FAILING, f"{host} answers with HTTP {status}", "try again later: the trouble is upstream"
        )
    if 300 <= status < 400:
        return _Verdict(
            Reach.FAILING, f"{host} redirects (HTTP {status})", "set base_url to where the redirect leads"
        )
    return None


def _replace_key(account: AccountSpec) -> str:
    return (
        f"replace the key that api_key of {account.id} refers to" if account.api_key else "give it an api_key"
    )


def _headers(kind: ProviderKind, account: AccountSpec) -> httpx.Headers | None:
    """What goes along with a call, None when the key can't."""
    from smartfallback.providers.call_headers import CallHeaders, header_value

    if account.api_key is None:
        return CallHeaders({})
    value: Secret | None
    match kind:
        case ProviderKind.GEMINI:
            name, value = "x-goog-api-key", header_value(account.api_key)
        case ProviderKind.OPENCODE:
            from smartfallback.providers.opencode_api import basic_credentials

            name, value = "authorization", basic_credentials(account.api_key)
        case _:
            name, value = "authorization", header_value(account.api_key, "Bearer ")
    return None if value is None else CallHeaders({name: value})


def _host(address: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(address).netloc
