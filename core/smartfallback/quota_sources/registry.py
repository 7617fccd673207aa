"""Which accounts of a pool have a quota source, and which.

OpenAI-compatible servers have no common quota endpoint: their accounts live on the own count and on
the rate-limit headers of their answers. OpenCode's server tells what an answer cost, but no quota of
anything (its OpenAPI description names none). A local model has no quota.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec, ProviderKind, QuotaSourceRule
from smartfallback.quota_sources.base import QuotaSource
from smartfallback.quota_sources.refresher import Watch

if TYPE_CHECKING:
    from smartfallback.providers.copilot_tool import ToolLocator


def sources_for(pool: PoolSpec, clock: Clock, tool: ToolLocator | None = None) -> dict[str, Watch]:
    """The accounts of ``pool`` that can be asked about, by id; empty where nobody can be asked.

    Args:
        pool: Its ``quota_source`` may turn asking off.
        clock: What ages and resets are read against.
        tool: Where a provider's program is; None for wherever the pool's ``command`` is found.
    """
    if pool.quota_source is QuotaSourceRule.NONE:
        return {}
    source: QuotaSource
    match pool.provider:
        case ProviderKind.GEMINI:
            from smartfallback.quota_sources.gemini import GeminiQuotaSource

            source = GeminiQuotaSource(pool, clock)
        case ProviderKind.COPILOT:
            from smartfallback.quota_sources.copilot import CopilotQuotaSource

            source = CopilotQuotaSource(pool, clock, tool=tool)
        case ProviderKind.OPENAI | ProviderKind.OPENCODE | ProviderKind.LOCAL:
            return {}
    return {account.id: Watch(account, source) for account in pool.accounts}
