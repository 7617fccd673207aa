"""Which adapter serves a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartfallback.clock import Clock
from smartfallback.model.specs import PoolSpec, ProviderKind
from smartfallback.providers.base import Provider

if TYPE_CHECKING:
    from smartfallback.providers.copilot_tool import ToolLocator
    from smartfallback.providers.http_client import WrapTransport


def build_provider(
    pool: PoolSpec,
    clock: Clock,
    on_notice: Callable[[str], None] | None = None,
    wrap: WrapTransport | None = None,
    tool: ToolLocator | None = None,
) -> Provider:
    """The adapter for ``pool``, importing what that kind needs and nothing else.

    Args:
        pool: Whose accounts the adapter serves.
        clock: What adapters read dates and waits against.
        on_notice: Told on the event loop, in a sentence, what the operator should know of the adapter's own
            parts, such as a child process that was lost.
        wrap: Put around each HTTP transport of an adapter that has any.
        tool: Where a provider's program is; None for wherever the pool's ``command`` is found.
    """
    match pool.provider:
        case ProviderKind.GEMINI:
            from smartfallback.providers.gemini import GeminiProvider

            return GeminiProvider(pool, clock, wrap)
        case ProviderKind.OPENAI:
            from smartfallback.providers.openai import OpenAIProvider

            return OpenAIProvider(pool, clock, wrap)
        case ProviderKind.LOCAL:
            from smartfallback.providers.local import LocalProvider

            return LocalProvider(pool, clock, on_notice=on_notice)
        case ProviderKind.COPILOT:
            from smartfallback.providers.copilot import CopilotProvider

            return CopilotProvider(pool, clock, wrap=wrap, tool=tool)
        case ProviderKind.OPENCODE:
            from smartfallback.providers.opencode import OpenCodeProvider

            return OpenCodeProvider(pool, clock, wrap=wrap)
