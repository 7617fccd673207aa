"""An adapter whose answers a test writes down, for behaviours of the engine that need no wire."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING

from smartfallback import (
    AccountSpec,
    ChainSpec,
    ErrorCategory,
    Failure,
    PoolSpec,
    ProviderKind,
    Request,
    SystemSpec,
    Usage,
)
from smartfallback.model.outcomes import ProviderError
from smartfallback.providers.base import Call, Chunk

if TYPE_CHECKING:
    from smartfallback import Clock

ANSWER = (Chunk("Hello"), Chunk(" world"), Chunk("", "stop", Usage(10, 5)))


class Pause:
    """A place in a script where the adapter waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()


Script = Iterable["Chunk | Failure | Exception | Pause"]


def failure(category: ErrorCategory, **fields: object) -> Failure:
    return Failure(category, fields.pop("message", "scripted"), **fields)  # type: ignore[arg-type]


class ScriptedUpstream:
    """Answers calls by script: the next one queued for the account, else its default."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.closed: list[str] = []
        self.defaults: dict[str, tuple[Chunk | Failure | Exception | Pause, ...]] = {}
        self.missing = ""
        self.fault: Exception | None = None
        self._queued: dict[str, deque[tuple[Chunk | Failure | Exception | Pause, ...]]] = defaultdict(deque)

    def provider(self, pool: PoolSpec, clock: Clock) -> ScriptedProvider:
        return ScriptedProvider(self)

    def queue(self, account: str, *scripts: Script) -> None:
        self._queued[account].extend(tuple(script) for script in scripts)

    def always(self, account: str, script: Script) -> None:
        self.defaults[account] = tuple(script)

    def script_for(self, account: str) -> tuple[Chunk | Failure | Exception | Pause, ...]:
        queued = self._queued[account]
        return queued.popleft() if queued else self.defaults.get(account, ANSWER)

    def accounts_called(self) -> list[str]:
        return [call.account.id for call in self.calls]


class ScriptedProvider:
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream

    def unavailable(self) -> str:
        if self._upstream.fault is not None:
            raise self._upstream.fault
        return self._upstream.missing

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        self._upstream.calls.append(call)
        try:
            for step in self._upstream.script_for(call.account.id):
                if isinstance(step, Failure):
                    raise ProviderError(step)
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Pause):
                    step.reached.set()
                    await step.go_on.wait()
                else:
                    yield step
        finally:
            self._upstream.closed.append(call.account.id)

    async def aclose(self) -> None:
        pass


def pool(name: str, *accounts: AccountSpec | str, **settings: object) -> PoolSpec:
    """A pool of scripted accounts with a provider of its own, unless the settings say otherwise."""
    settings.setdefault("provider", ProviderKind.OPENAI)
    settings.setdefault("provider_id", f"{name}-api")
    settings.setdefault("model", f"{name}-model")
    specs = tuple(AccountSpec(entry) if isinstance(entry, str) else entry for entry in accounts)
    return PoolSpec(name=name, accounts=specs, **settings)  # type: ignore[arg-type]


def system(*pools: PoolSpec, **chain: object) -> SystemSpec:
    """The pools as one chain, ``default``."""
    names = tuple(entry.name for entry in pools)
    return SystemSpec(pools=pools, chains=(ChainSpec("default", names, **chain),))  # type: ignore[arg-type]


def ask(text: str = "Why is the sky blue?", **fields: object) -> Request:
    from dataclasses import replace

    return replace(Request.ask(text), **fields)  # type: ignore[arg-type]
