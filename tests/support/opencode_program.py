"""The real OpenCode program: installed once from its npm package, run against loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import platformdirs

VERSION: Final = "1.18.33"
PACKAGE: Final = f"opencode-ai@{VERSION}"
PASSWORD: Final = "test-password-0123"
PROVIDER: Final = "loopback"

_INSTALL_LIMIT_S: Final = 90.0
_READY_LIMIT_S: Final = 60.0
_END_LIMIT_S: Final = 5.0
_READY: Final = re.compile(rb"listening on (http://127\.0\.0\.1:\d+)")
_NOWHERE: Final = "http://127.0.0.1:9"


class Absent(Exception):
    """The program can't be had here, for the reason given."""


async def installed_program() -> Path:
    """The program's file, from the cache or freshly installed.

    Raises:
        Absent: npm is not there, or could not install it in time.
    """
    program = platformdirs.user_cache_path("smartfallback-tests") / f"opencode-{VERSION}"
    if program.exists():
        return program
    npm = shutil.which("npm")
    if npm is None:
        raise Absent("npm is not installed")
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="opencode-", dir=program.parent))
    except OSError as error:
        raise Absent(f"the cache folder can't be written ({error.strerror})") from None
    try:
        await _install(npm, folder)
        # One move at the end, so that a half-made installation is never taken for a whole one.
        _binary(folder).replace(program)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return program


async def _install(npm: str, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(npm, "install", PACKAGE, "--prefix", str(folder), "--cache", str(folder / "cache")),
        *("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_INSTALL_LIMIT_S):
            status = await process.wait()
    except TimeoutError:
        raise Absent(f"npm did not install {PACKAGE} within {_INSTALL_LIMIT_S:g} s") from None
    finally:
        await _end(process)
    if status:
        raise Absent(f"npm could not install {PACKAGE} (exit code {status})")


def _binary(folder: Path) -> Path:
    """The build for this machine: the baseline one where there are two, since it runs on any processor."""
    found = sorted(folder.glob("node_modules/opencode-*/bin/opencode"), key=lambda path: len(str(path)))
    musl = platform.libc_ver()[0] != "glibc"
    fitting = [path for path in found if ("musl" in str(path)) == musl] or found
    if not fitting:
        raise Absent(f"{PACKAGE} has no build for this machine")
    return fitting[-1]


@asynccontextmanager
async def opencode_serve(
    program: Path, folder: Path, *, upstream: str, key: str, model: str
) -> AsyncIterator[str]:
    """``opencode serve`` with :data:`PROVIDER`, whose only model is at ``upstream``; gives its address.

    Home and all other folders of the program are made in ``folder``. Whatever it might want to load
    from elsewhere goes by a proxy that nobody answers at.

    Raises:
        RuntimeError: It did not get ready; the message has the end of its output.
    """
    config = folder / "config" / "opencode"
    work = folder / "work"
    for each in (config, work):
        each.mkdir(parents=True)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Loopback",
        "options": {"baseURL": upstream, "apiKey": key},
        "models": {model: {"name": model}},
    }
    settings = {"autoupdate": False, "share": "disabled", "provider": {PROVIDER: provider}}
    (config / "opencode.json").write_text(json.dumps(settings), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(str(program), "serve", "--hostname", "127.0.0.1", "--port", "0"),
        cwd=work,
        env=_environment(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    reader: asyncio.Task[None] | None = None
    try:
        if process.stdout is None:
            raise RuntimeError("the program has no output to read its address from")
        address = await _address(process.stdout)
        reader = asyncio.create_task(_drain(process.stdout))
        yield address
    finally:
        await _end(process)
        if reader is not None:
            async with asyncio.timeout(_END_LIMIT_S):
                await reader


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"),
        "OPENCODE_SERVER_PASSWORD": PASSWORD,
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "HTTP_PROXY": _NOWHERE,
        "HTTPS_PROXY": _NOWHERE,
        "NO_PROXY": "127.0.0.1,localhost",
    }


async def _address(output: asyncio.StreamReader) -> str:
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READY_LIMIT_S):
            while line := await output.readline():
                said += line
                if found := _READY.search(line):
                    return found[1].decode()
    raise RuntimeError(f"the program did not get ready: {said[-1000:].decode(errors='replace')}")


async def _drain(output: asyncio.StreamReader) -> None:
    while await output.read(65_536):
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process with all that it started, and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(_END_LIMIT_S):
        await process.wait()
