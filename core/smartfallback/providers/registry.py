"""Which adapter serves a pool."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.model.specs import PoolSpec, ProviderKind
from smartfallback.providers.base import Call, Chunk, Provider

_NOT_BUILT_IN: Final = {
    ProviderKind.COPILOT: "the copilot adapter is not part of this version",
    ProviderKind.OPENCODE: "the opencode adapter is not part of this version",
}


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
        case ProviderKind.COPILOT | ProviderKind.OPENCODE:
            return AbsentProvider(pool, clock)


class AbsentProvider:
    """Stands for a kind of upstream that this version can't talk to, and says so."""

    def __init__(self, pool: PoolSpec, clock: Clock) -> None:  # noqa: ARG002  # the constructor all adapters share
        self._reason = (
            f"{_NOT_BUILT_IN[pool.provider]}: "
            f'use provider = "openai" with the base_url of a compatible endpoint for pool {pool.name}'
        )

    def unavailable(self) -> str:
        """Why, and what to configure instead."""
        return self._reason

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:  # noqa: ARG002  # the protocol's signature
        """Always raises.

        Raises:
            ProviderError: With the reason.
        """
        if self._reason:
            raise ProviderError(Failure(ErrorCategory.UNKNOWN, self._reason))
        yield Chunk()

    async def aclose(self) -> None:
        """Nothing to release."""
