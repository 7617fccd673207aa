"""Whether accounts can be reached, found out without spending any quota.

An upstream is asked for its list of models (or its health, for OpenCode) with the account's key:
these calls cost nothing, and show a refused key as well as a dead address.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from smartfallback.clock import SystemClock
from smartfallback.model.secrets import redact
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind, SystemSpec

if TYPE_CHECKING:
    import httpx

LIMIT_S: Final = 5.0
_AT_ONCE: Final = 16
_BODY_READ: Final = 4096
_DEFAULT_ADDRESS: Final = {
    ProviderKind.GEMINI: "https://generativelanguage.googleapis.com",
    ProviderKind.OPENAI: "https://api.openai.com/v1",
    ProviderKind.OPENCODE: "http://127.0.0.1:4096",
}
_PATH: Final = {
    ProviderKind.GEMINI: "/v1beta/models?pageSize=1",
    ProviderKind.OPENAI: "/models",
    ProviderKind.OPENCODE: "/global/health",
}


class Reach(StrEnum):
    """What was found about one account."""

    OK = "ok"
    """It answers, and did not refuse the key."""
    REACHABLE = "reachable"
    """Something answers there, but it has no such list: the key could not be tried."""
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
                reach, detail, suggestion = Reach.UNAVAILABLE, unavailable, ""
            elif pool.provider not in _PATH:
                reach, detail, suggestion = Reach.OK, "can run on this machine", ""
            else:
                async with gate:
                    reach, detail, suggestion = await _ask(client, pool, account, limit_s)
            known = [account.api_key] if account.api_key is not None else []
            return Finding(
                account.id, pool.name, pool.provider.value, reach, redact(detail, known), suggestion
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


async def _ask(
    client: httpx.AsyncClient, pool: PoolSpec, account: AccountSpec, limit_s: float
) -> tuple[Reach, str, str]:
    import httpx

    address = account.base_url or pool.base_url or _DEFAULT_ADDRESS[pool.provider]
    check_address = "check base_url, the network and any proxy, or start the server"
    try:
        url = httpx.URL(address.rstrip("/") + _PATH[pool.provider])
        async with (
            asyncio.timeout(limit_s),
            client.stream("GET", url, headers=_headers(pool.provider, account)) as response,
        ):
            body = bytearray()
            if response.status_code == httpx.codes.BAD_REQUEST:
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) >= _BODY_READ:
                        break
    except (TimeoutError, httpx.TimeoutException):
        return Reach.UNREACHABLE, f"no answer from {_host(address)} within {limit_s:g} s", check_address
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        reason = str(error) or type(error).__name__
        return Reach.UNREACHABLE, f"no connection to {_host(address)}: {reason}", check_address
    return _judge(response.status_code, bytes(body), _host(address), account)


def _judge(status: int, body: bytes, host: str, account: AccountSpec) -> tuple[Reach, str, str]:
    replace_key = (
        f"replace the key that api_key of {account.id} refers to" if account.api_key else "give it an api_key"
    )
    # Gemini says 400 where others say 401.
    if status in (401, 403) or (status == 400 and b"API_KEY_INVALID" in body):
        return Reach.REFUSED, f"{host} refuses the key (HTTP {status})", replace_key
    if status == 429:
        return Reach.OK, f"{host} answers; the account is rate limited at the moment (HTTP 429)", ""
    if 200 <= status < 300:
        return Reach.OK, f"{host} answers", ""
    if status >= 500:
        return (
            Reach.FAILING,
            f"{host} answers with HTTP {status}",
            "try again later: the trouble is upstream",
        )
    if 300 <= status < 400:
        return Reach.FAILING, f"{host} redirects (HTTP {status})", "set base_url to where the redirect leads"
    return Reach.REACHABLE, f"{host} answers, but lists no models (HTTP {status}): the key was not tried", ""


def _headers(provider: ProviderKind, account: AccountSpec) -> dict[str, str]:
    if account.api_key is None:
        return {}
    key = account.api_key.reveal()
    if provider is ProviderKind.GEMINI:
        return {"x-goog-api-key": key}
    if provider is ProviderKind.OPENCODE:
        return {"authorization": "Basic " + base64.b64encode(f"opencode:{key}".encode()).decode("ascii")}
    return {"authorization": f"Bearer {key}"}


def _host(address: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(address).netloc
