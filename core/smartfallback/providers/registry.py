"""Which adapter serves a pool."""

from __future__ import annotations

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec, ProviderKind
from smartfallback.providers.base import Provider


def build_provider(pool: PoolSpec, clock: Clock) -> Provider:
    """The adapter for ``pool``, importing what that kind needs and nothing else.

    Args:
        pool: Whose accounts the adapter serves.
        clock: What adapters read dates and waits against.
    """
    match pool.provider:
        case ProviderKind.GEMINI:
            from smartfallback.providers.gemini import GeminiProvider

            return GeminiProvider(pool, clock)
        case ProviderKind.OPENAI:
            from smartfallback.providers.openai import OpenAIProvider

            return OpenAIProvider(pool, clock)
        case ProviderKind.LOCAL:
            from smartfallback.providers.local import LocalProvider

            return LocalProvider(pool, clock)
        case ProviderKind.COPILOT:
            from smartfallback.providers.copilot import CopilotProvider

            return CopilotProvider(pool, clock)
        case ProviderKind.OPENCODE:
            from smartfallback.providers.opencode import OpenCodeProvider

            return OpenCodeProvider(pool, clock)
