"""The library's public face: everything it names is there, and importing it costs nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import smartfallback

HEAVY = (
    "textual",
    "rich",
    "redis",
    "llama_cpp",
    "starlette",
    "psutil",
    "httpx",
    "aiohttp",
    "pydantic",
    "numpy",
)


def test_importing_the_library_loads_nothing_heavy():
    program = f"import sys, smartfallback; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_every_public_name_can_be_had():
    missing = [name for name in smartfallback.__all__ if getattr(smartfallback, name, None) is None]
    assert missing == []
    assert len(set(smartfallback.__all__)) == len(smartfallback.__all__)
