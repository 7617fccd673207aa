"""Copilot's quota: from its command-line tool, else from the endpoint that the tool itself asks."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from smartfallback.clock import Clock
from smartfallback.model.quota import QuotaReading, TruthLabel, WindowKind
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers.copilot_tool import ToolLocator, environment, secrets_in
from smartfallback.providers.http_client import HttpClient
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError
from smartfallback.quota_sources.copilot_quota import CopilotQuota, parse_copilot_user, parse_tool_quota
from smartfallback.quota_sources.copilot_rpc import ask_tool
from smartfallback.quota_sources.http_source import address, get_json, key_of

BASE: Final = "https://api.github.com"
PATH: Final = "/copilot_internal/user"
DEFAULT_TTL_S: Final = 600.0
TOOL_S: Final = 3.5
"""How long the tool may take where the endpoint can be asked instead; the rest of the limit is for that."""


class CopilotQuotaSource:
    """Asks the tool first; then, for accounts with a key, the user endpoint.

    The endpoint is GitHub's own and not documented: it may change or go. Then, as when the tool is
    missing, the account is assumed to be 80 % used. The tool is looked for again every half minute,
    so that installing it needs no restart.
    """

    name = "copilot"
    missing_retry_s = 30.0
    estimates_when_missing = True
    assumed_kind = WindowKind.MONTH

    def __init__(
        self, pool: PoolSpec, clock: Clock, *, tool_s: float = TOOL_S, tool: ToolLocator | None = None
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._tool_s = tool_s
        self._tool = tool or ToolLocator(pool.command, clock)
        self._client = HttpClient(connect_s=pool.timeouts.connect_s)
        self.ttl_s = pool.quota_ttl_s or DEFAULT_TTL_S

    async def read(self, account: AccountSpec) -> QuotaReading:
        """See :meth:`QuotaSource.read`. The reading's source says which of the two answered."""
        asked_at = self._clock.time()
        try:
            quota = await self._from_tool(account, asked_at)
            source = "copilot tool"
        except QuotaSourceError as first:
            if account.api_key is None:
                raise
            try:
                quota = await self._from_endpoint(account, asked_at)
            except QuotaSourceError as second:
                missing = {first.kind, second.kind} == {QuotaFault.MISSING}
                kind = QuotaFault.MISSING if missing else second.kind
                raise QuotaSourceError(f"{first}; user endpoint: {second}", kind) from None
            source = "copilot user endpoint"
        known = any(window.percent is not None or window.unlimited for window in quota.windows)
        label = TruthLabel.REPORTED if known else TruthLabel.UNKNOWN
        return QuotaReading(account.id, source, label, asked_at, quota.windows, quota.note)

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        await self._client.aclose()

    async def _from_tool(self, account: AccountSpec, now: float) -> CopilotQuota:
        tool = self._tool.find()
        if tool is None:
            raise QuotaSourceError(f"{self._tool.program} is not installed", QuotaFault.MISSING)
        env = environment(account, os.environ)
        # Without another way the tool has all the time there is.
        limit = self._tool_s if account.api_key is not None else None
        try:
            async with asyncio.timeout(limit):
                result = await ask_tool(tool, env, secrets_in(env))
        except TimeoutError:
            words = f"the tool did not answer within {self._tool_s:g} s"
            raise QuotaSourceError(words, QuotaFault.TIMEOUT) from None
        except QuotaSourceError as error:
            if error.kind is QuotaFault.MISSING:
                self._tool.forget()
            raise
        quota = parse_tool_quota(result, now)
        if quota is None:
            raise QuotaSourceError("the tool's answer names no quota", QuotaFault.MALFORMED)
        return quota

    async def _from_endpoint(self, account: AccountSpec, now: float) -> CopilotQuota:
        headers: dict[str, str | Secret] = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "smartfallback",
            "authorization": key_of(account, "token ") or "",
        }
        url = address(self._pool.quota_url, BASE, PATH)
        quota = parse_copilot_user(await get_json(self._client, url, headers, account), now)
        if quota is None:
            raise QuotaSourceError("the answer names no quota", QuotaFault.MALFORMED)
        return quota
