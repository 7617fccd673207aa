"""A lab of two small upstreams, and callers of it with and without the real adapters."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp

from smartfallback.clock import Clock
from smartfallback.model.outcomes import Failure, ProviderError
from smartfallback.model.quota import QuotaUnit
from smartfallback.model.requests import Message, Role, Usage
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.base import Call
from smartfallback.providers.registry import build_provider
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import (
    INSTANT,
    DialectName,
    Upstream,
    UpstreamAccount,
    UpstreamQuota,
)

DIALECTS = ("gemini", "openai")
QUESTION = "How do database indexes work?"
MODEL = "sim-1"
WEEKLY_TOKENS = 100_000.0


def key(account: str) -> Secret:
    return Secret(f"test-key-of-{account}")


def account(name: str, **settings: Any) -> UpstreamAccount:
    return UpstreamAccount(name, key(name), **{"quota": UpstreamQuota(WEEKLY_TOKENS), **settings})


def upstream(dialect: str, *accounts: UpstreamAccount, **settings: Any) -> Upstream:
    return Upstream(
        dialect,
        DialectName(dialect),
        accounts or (account(f"{dialect}-1"), account(f"{dialect}-2")),
        **{"latency": INSTANT, "models": (MODEL, "sim-2"), **settings},
    )


@asynccontextmanager
async def running_lab(clock: Clock, *upstreams: Upstream, seed: int = 1) -> AsyncIterator[Lab]:
    async with Lab(clock, Random(seed), upstreams or [upstream(name) for name in DIALECTS]) as lab:
        yield lab


def requests_quota(limit: float) -> UpstreamQuota:
    return UpstreamQuota(limit, QuotaUnit.REQUESTS)


@dataclass
class Raw:
    """What a plain HTTP client got. ``broken`` is the error that ended the body, if one did."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    broken: Exception | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().splitlines() if line.startswith("data: {")]
        return [json.loads(line[6:]) for line in lines]


def wire_call(
    lab: Lab,
    name: str,
    *,
    stream: bool,
    question: str = QUESTION,
    model: str = MODEL,
    limit: int | None = None,
) -> tuple[str, dict[str, Any]]:
    """Address and body of a call, written down here anew so that the adapters aren't their own judges."""
    if name == "gemini":
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": question}]}]}
        if limit:
            body["generationConfig"] = {"maxOutputTokens": limit}
        return f"{lab.base_url(name)}/v1beta/models/{model}:{method}", body
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    if limit:
        body["max_tokens"] = limit
    return f"{lab.base_url(name)}/chat/completions", body


def auth(name: str, account_id: str) -> dict[str, str]:
    value = key(account_id).reveal()
    return {"x-goog-api-key": value} if name == "gemini" else {"Authorization": f"Bearer {value}"}


async def ask_raw(
    lab: Lab,
    name: str,
    account_id: str | None = None,
    *,
    stream: bool = True,
    body: Any = None,
    **call: Any,
) -> Raw:
    """One call by a plain client on a connection of its own."""
    url, default_body = wire_call(lab, name, stream=stream, **call)
    data = body if isinstance(body, bytes) else json.dumps(body or default_body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=data, headers=auth(name, account_id or f"{name}-1")) as response,
    ):
        raw = Raw(response.status, dict(response.headers))
        try:
            async for piece in response.content.iter_any():
                raw.body += piece
        except aiohttp.ClientError as error:
            raw.broken = error
        return raw


@dataclass
class Answer:
    """What an adapter made of a call."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    failure: Failure | None = None
    pieces: list[str] = field(default_factory=list)


async def ask(
    lab: Lab,
    name: str,
    clock: Clock,
    account_id: str | None = None,
    *,
    stream: bool = True,
    model: str = MODEL,
) -> Answer:
    """One call through the real adapter."""
    kind = ProviderKind.GEMINI if name == "gemini" else ProviderKind.OPENAI
    account_id = account_id or f"{name}-1"
    spec = AccountSpec(account_id, key(account_id))
    pool = PoolSpec(name, kind, name, (spec,), model=model, base_url=lab.base_url(name))
    provider = build_provider(pool, clock)
    call = Call(spec, pool, model, (Message(Role.USER, QUESTION),), None, None, stream)
    answer = Answer()
    try:
        async for chunk in provider.stream(call):
            answer.text += chunk.text
            answer.pieces += [chunk.text] if chunk.text else []
            answer.finish = chunk.finish_reason or answer.finish
            answer.usage = chunk.usage or answer.usage
    except ProviderError as error:
        answer.failure = error.failure
    finally:
        await provider.aclose()
    return answer
