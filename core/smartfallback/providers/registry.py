"""Which adapter serves a pool."""

from __future__ import annotations

from collections.abc import Callable

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec, ProviderKind
from smartfallback.providers.base import Provider


def build_provider(pool: PoolSpec, clock: Clock, on_notice: Callable[[str], None] | None = None) -> Provider:
    """The adapter for ``pool``, importing what that kind needs and nothing else.

    Args:
        pool: Whose accounts the adapter serves.
        clock: What adapters read dates and waits against.
        on_notice: Told on the event loop, in a sentence, what the operator should know of the adapter's own
            parts, such as a child process that was lost.
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

            return LocalProvider(pool, clock, on_notice=on_notice)
        case ProviderKind.COPILOT:
            from smartfallback.providers.copilot import CopilotProvider

            return CopilotProvider(pool, clock)
        case ProviderKind.OPENCODE:
            from smartfallback.providers.opencode import OpenCodeProvider

            return OpenCodeProvider(pool, clock)
