"""Whatever a traceback prints of the variables on its way, no key is among it."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from smartfallback.clock import SystemClock
from smartfallback.model.outcomes import ProviderError
from smartfallback.model.secrets import MASK, Secret
from smartfallback.model.specs import ProviderKind
from smartfallback.providers.call_headers import CallHeaders
from smartfallback.providers.gemini import GeminiProvider
from smartfallback.providers.http_client import HttpClient
from smartfallback.providers.registry import build_provider
from smartfallback.quota_sources.registry import sources_for
from support.clock import FakeClock
from support.copilot_tools import complaining, copilot_pool, write_tool
from support.http_servers import always, call_to, http_server, pool_at

KEY = "N0t-T0-Be-Pr1nted-0123456789"
FORMS = (KEY, base64.b64encode(f"opencode:{KEY}".encode()).decode())
ECHO = always(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "details": [KEY]}})
KINDS = [ProviderKind.GEMINI, ProviderKind.OPENAI, ProviderKind.OPENCODE]


def shown(error: BaseException) -> str:
    """The error with every variable of every frame, as verbose tracebacks print them."""
    return "\n".join(pieces(error, set()))


def pieces(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield "".join(traceback.format_exception(error))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "/tests/" not in frame.f_code.co_filename:
            yield from variables(frame)
    yield from pieces(error.__cause__, seen)
    yield from pieces(error.__context__, seen)


def variables(frame: FrameType) -> Iterator[str]:
    for name, value in frame.f_locals.items():
        yield f"{name} = {opened(value)}"


def opened(value: Any) -> str:
    """``repr``, with containers opened as printers of tracebacks open them, whatever their class says."""
    if isinstance(value, dict):
        return repr([(key, opened(item)) for key, item in value.items()])
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return repr([opened(item) for item in value])
    return repr(value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1", "no address at all"])
async def test_a_call_that_fails(kind: ProviderKind, url: str | None) -> None:
    async with http_server(ECHO) as upstream:
        pool = pool_at(url or upstream.url, kind, key=KEY, model="p/m")
        provider = build_provider(pool, FakeClock())
        with pytest.raises(ProviderError) as caught:
            await anext(provider.stream(call_to(pool)))
        await provider.aclose()
    text = shown(caught.value)
    assert "call = Call(" in text
    assert [form for form in FORMS if form in text] == []


async def test_a_run_of_the_tool_that_fails(tmp_path: Path) -> None:
    pool = copilot_pool(write_tool(tmp_path, complaining(f"bad login {KEY}")), key=KEY)
    provider = build_provider(pool, SystemClock())
    with pytest.raises(ProviderError) as caught:
        await collect_raw(provider.stream(call_to(pool)))
    await provider.aclose()
    text = shown(caught.value)
    assert f"GH_TOKEN={MASK}" in text
    assert KEY not in text


@pytest.mark.parametrize("kind", [ProviderKind.GEMINI, ProviderKind.COPILOT])
@pytest.mark.parametrize("status", [401, 500])
async def test_a_quota_that_is_refused(kind: ProviderKind, status: int) -> None:
    async with http_server(ECHO) as upstream:
        pool = pool_at(upstream.url, kind, key=KEY)
        pool = replace(pool, quota_url=f"{upstream.url}/q", command=("/no/such/tool",))
        (watch,) = sources_for(pool, FakeClock()).values()
        with pytest.raises(Exception, match=r"status|refused") as caught:
            await watch.source.read(pool.accounts[0])
        await watch.source.aclose()
    text = shown(caught.value)
    assert "headers" in text
    assert KEY not in text


async def test_an_endpoint_names_its_headers_and_no_value() -> None:
    pool = pool_at("http://127.0.0.1:1", ProviderKind.GEMINI, key=KEY)
    provider = GeminiProvider(pool, FakeClock())
    endpoint = provider._endpoint(call_to(pool))  # the value that calls pass on
    assert endpoint.headers["x-goog-api-key"] == KEY
    for text in (repr(endpoint), str(endpoint), f"{endpoint.headers}", repr([endpoint.headers])):
        assert "x-goog-api-key" in text
        assert KEY not in text
    await provider.aclose()


async def test_headers_take_secrets_wrapped() -> None:
    headers = CallHeaders({"accept": "*/*", "x-key": Secret(KEY)})
    assert headers["X-Key"] == KEY
    assert repr(headers) == f"CallHeaders(accept: {MASK}, x-key: {MASK})"
    client = HttpClient(connect_s=1.0)
    with pytest.raises(ProviderError) as caught:
        client.endpoint("no address", {"x-key": Secret(KEY)})
    assert KEY not in shown(caught.value)


async def collect_raw(chunks: Any) -> None:
    async for _ in chunks:
        pass
