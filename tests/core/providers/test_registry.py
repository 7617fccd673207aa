"""The registry: each kind gets its adapter, and loading one loads no more than it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.registry import build_provider
from support.clock import FakeClock


@pytest.mark.parametrize("kind", [ProviderKind.GEMINI, ProviderKind.OPENAI, ProviderKind.OPENCODE])
async def test_http_kinds_have_an_official_address_of_their_own(kind: ProviderKind) -> None:
    pool = PoolSpec(
        name="pool", provider=kind, provider_id=kind.value, accounts=(AccountSpec(id="a"),), model="p/m"
    )
    provider = build_provider(pool, FakeClock())
    assert provider.unavailable() == ""
    await provider.aclose()


def test_the_registry_alone_loads_no_http_client() -> None:
    script = (
        "import sys, smartfallback.providers.registry;"
        "print([name for name in ('httpx', 'aiohttp', 'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603  # our own script in our own interpreter
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
