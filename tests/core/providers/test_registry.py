"""The registry: each kind gets its adapter, and loading one loads no more than it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smartfallback.clock import SystemClock
from smartfallback.model.outcomes import ProviderError
from smartfallback.model.specs import AccountSpec, PoolSpec, ProviderKind
from smartfallback.providers.local import LocalProvider
from smartfallback.providers.registry import build_provider
from support.clock import FakeClock
from support.local_models import collect, local_call, local_pool, write_endless_model


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
    done = subprocess.run(  # our own script in our own interpreter
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


async def test_what_a_local_model_has_to_tell_reaches_the_callback(tmp_path: Path) -> None:
    heard: list[str] = []
    provider = build_provider(
        local_pool(write_endless_model(tmp_path / "m.gguf")), SystemClock(), on_notice=heard.append
    )
    assert isinstance(provider, LocalProvider)
    try:
        chunks = provider.stream(local_call())
        await anext(chunks)
        assert provider.pid is not None
        os.kill(provider.pid, signal.SIGKILL)
        with pytest.raises(ProviderError):
            await collect(chunks)
    finally:
        await provider.aclose()
    assert any("SIGKILL" in notice for notice in heard)
