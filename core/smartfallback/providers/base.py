"""What the engine asks of an adapter."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from smartfallback.model.quota import WindowReading
from smartfallback.model.requests import Message, Usage
from smartfallback.model.specs import AccountSpec, PoolSpec


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt, as an adapter sees it."""

    account: AccountSpec
    pool: PoolSpec
    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int | None
    temperature: float | None
    stream: bool


class Chunk(NamedTuple):
    """A piece of an answer. Every field may be empty: role chunks and keep-alives carry no text.

    ``finish_reason`` is set on the final chunk ("stop", "length", …); ``usage`` may come with it
    or after it. ``limits`` comes once, with the first chunk: what the response's rate-limit headers
    say of the account, labelled ``learned``.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    limits: tuple[WindowReading, ...] = ()


class Provider(Protocol):
    """One adapter instance serves one pool."""

    def unavailable(self) -> str:
        """Why this provider can't run here and what to do about it; empty when it can."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Answer ``call`` piece by piece.

        Closing the generator, or cancelling the task that reads it, ends the upstream call.
        A generator that ends without a ``finish_reason`` was cut off.

        Raises:
            ProviderError: The attempt failed, classified.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and child processes. Safe to call twice."""
        ...
