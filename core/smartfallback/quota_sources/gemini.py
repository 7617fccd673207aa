"""The quota endpoint of a Gemini deployment."""

from __future__ import annotations

from typing import Final

from smartfallback.clock import Clock
from smartfallback.model.quota import QuotaReading, TruthLabel, WindowKind
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.http_client import HttpClient
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.gemini_quota import parse_quota_status
from smartfallback.quota_sources.http_source import address, get_json, key_of

PATH: Final = "/v1beta/quotaStatus"
DEFAULT_TTL_S: Final = 300.0
_BASE: Final = "https://generativelanguage.googleapis.com"
_VERSIONS: Final = ("/v1beta", "/v1", "/v1alpha")


class GeminiQuotaSource:
    """Asks ``{base}/v1beta/quotaStatus`` with each account's key.

    Most deployments don't have the endpoint (the public API does not): a 404 leaves the account to
    its own count, and is asked again hourly.
    """

    name = "quota endpoint"
    missing_retry_s = 3_600.0
    estimates_when_missing = False
    assumed_kind = WindowKind.WEEK

    def __init__(self, pool: PoolSpec, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._client = HttpClient(connect_s=pool.timeouts.connect_s)
        self.ttl_s = pool.quota_ttl_s or DEFAULT_TTL_S

    async def read(self, account: AccountSpec) -> QuotaReading:
        """See :meth:`QuotaSource.read`."""
        asked_at = self._clock.time()
        headers: dict[str, str | Secret] = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "smartfallback",
        }
        key = key_of(account)
        if key is not None:
            headers["x-goog-api-key"] = key
        payload = await get_json(self._client, self._url(account), headers, account)
        windows = parse_quota_status(payload, asked_at, model=self._pool.model)
        if windows is None:
            raise QuotaSourceError("the answer names no quota", QuotaFault.MALFORMED)
        known = any(window.percent is not None or window.unlimited for window in windows)
        label = TruthLabel.REPORTED if known else TruthLabel.UNKNOWN
        note = "" if known else "the endpoint answers, but names no share of any limit"
        return QuotaReading(account.id, self.name, label, asked_at, windows, note)

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        await self._client.aclose()

    def _url(self, account: AccountSpec) -> str:
        base = (account.base_url or self._pool.base_url or _BASE).rstrip("/")
        for version in _VERSIONS:
            base = base.removesuffix(version)
        return address(self._pool.quota_url, base, PATH)
